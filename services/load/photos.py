"""The pictures that are sent: in memory, and no two the same to the server, which remembers those that it has seen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from time import time_ns

from PIL import Image, ImageOps

from captioner.images import photo_files

MOST_PHOTOS = 200
QUALITY = 90
"""Of the JPEG files that are made here."""


def distinct(jpeg: bytes, number: int) -> bytes:
    """The same picture in another file: with a comment segment of the number, which has 64 bits, behind the first mark.

    Decoders pass over the comment, so the pixels are equal; every digest of the file is another one.
    """
    return jpeg[:2] + b"\xff\xfe" + (2 + 8).to_bytes(2, "big") + number.to_bytes(8, "big") + jpeg[2:]


def read_photos(paths: Sequence[Path], size: tuple[int, int] | None = None) -> list[bytes]:
    """JPEG files: those given, or in the folders given, the first 200 by name.

    size: width and height that all are cut and scaled to; None leaves JPEG files as they are. Raises ValueError where
    there is no picture, OSError where one cannot be read.
    """
    files = [file for path in paths for file in (photo_files(path) if path.is_dir() else [path])]
    return [_jpeg(file.read_bytes(), size) for file in islice(files, MOST_PHOTOS)]


def _jpeg(data: bytes, size: tuple[int, int] | None) -> bytes:
    if size is None and data.startswith(b"\xff\xd8"):
        return data
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    file = io.BytesIO()
    (picture if size is None else ImageOps.fit(picture, size)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class Photos:
    """Takes turns among pictures for ever."""

    def __init__(self, jpegs: Sequence[bytes]):
        self.jpegs = jpegs
        self._numbers = count(time_ns())  # another run's numbers are others

    def next(self) -> bytes:
        """A file that was never sent before."""
        number = next(self._numbers)
        return distinct(self.jpegs[number % len(self.jpegs)], number)

    def nonsense(self) -> bytes:
        """Bytes that are no picture, or half of one."""
        number = next(self._numbers)
        jpeg = self.jpegs[number % len(self.jpegs)]
        kinds = (b"", b"<html>" + jpeg[:1000], number.to_bytes(8, "big") * 1000, jpeg[: len(jpeg) // 2])
        return kinds[number % len(kinds)]
