"""Untrusted photos to pixels: every photo ends as uint8 RGB or as one BadImage with a reason, never as anything else.

JPEG, PNG, WebP and GIF, told apart by content. Size is checked on the header, before anything is decoded. EXIF
orientation is applied, transparency is laid on white, 16 bits become 8, animations give their first frame.
A damaged JPEG is refused where Pillow alone would guess at the missing part.

Axes: H height, W width, 3 red, green and blue.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from captioner.config import at_least

Photo: TypeAlias = bytes | str | Path | Image.Image | NDArray[np.uint8]
"""The bytes or the path of a file, a Pillow picture, or pixels: uint8 RGB [H, W, 3] or grey [H, W]."""

Reason = Literal[
    "EMPTY_IMAGE",
    "IMAGE_TOO_LARGE_BYTES",
    "IMAGE_TOO_MANY_PIXELS",
    "IMAGE_TOO_SMALL",
    "IMAGE_BAD_ASPECT",
    "UNSUPPORTED_FORMAT",
    "HEIC_UNSUPPORTED",
    "CORRUPT_IMAGE",
]


class BadImage(ValueError):  # noqa: N818 - it is the photo that is bad
    """A photo that cannot be used; the message is one sentence for the person who sent it."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(reason, message)  # both, so that it survives pickling between processes
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class ImageLimits:
    """The largest and oddest photo that is decoded."""

    max_bytes: int = 16 * 2**20
    """Of the file."""
    max_pixels: int = 40_000_000
    """Width times height; 40 megapixels are 120 MB of RGB."""
    min_side: int = 8
    """Pixels."""
    max_side: int = 20_000
    """Pixels."""
    max_aspect: float = 20.0
    """Long side over short side."""
    max_scans: int = 100
    """Passes of a progressive JPEG over its pixels: 10 are usual, 130 kB can hold 800 that take 20 s to decode."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "min_side", "max_side", "max_aspect", "max_scans"):
            at_least(name, getattr(self, name), 1)


LIMITS = ImageLimits()
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
"""By which photos are found in a folder."""


def photo_files(folder: Path) -> list[Path]:
    """The photos of a folder by name; ValueError where there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder}: holds no photo ({', '.join(SUFFIXES)})")
    return found


_HEIC_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"])
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]", re.DOTALL)  # those that carry a length, and the end
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_STRIP_ROWS = 256  # converting in strips keeps one whole copy of a large photo in memory instead of four
_warning_filters = threading.Lock()  # they are global, and servers decode in threads


def read_photo(photo: Photo, limits: ImageLimits = LIMITS, needed: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of any kind of photo; raises BadImage, or OSError for a path that cannot be read.

    `needed` as for decode_image.
    """
    if isinstance(photo, bytes):
        return decode_image(photo, limits, needed)
    if isinstance(photo, str | Path):
        return decode_image(file_bytes(photo, limits), limits, needed)
    if isinstance(photo, Image.Image):
        with _only_bad_image(photo.format or "picture"):
            return _upright_rgb(photo, limits)
    if isinstance(photo, np.ndarray):
        return _rgb_of_array(photo, limits)
    raise TypeError(f"a photo is bytes, a path, a Pillow picture or a uint8 array, got {type(photo).__name__}")


def file_bytes(path: str | Path, limits: ImageLimits = LIMITS) -> bytes:
    """What is in a file; raises BadImage, unread, where that is too much, or OSError."""
    _check_bytes(os.stat(path).st_size, limits)
    return Path(path).read_bytes()


def decode_image(data: bytes, limits: ImageLimits = LIMITS, needed: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of the bytes of a JPEG, PNG, WebP or GIF file; raises BadImage and nothing else.

    `needed` is the height and width that will be looked at: a JPEG of twice that or more comes at a half, a quarter or
    an eighth of its size, never smaller than needed. Its decoder then computes no more than that: four times as fast
    for 12 megapixels.
    """
    _check_bytes(len(data), limits)
    kind = _kind(data)
    with _only_bad_image(kind):
        if kind == "JPEG" and (rgb_HW3 := _decode_jpeg(data, limits, needed)) is not None:
            return rgb_HW3
        if kind == "PNG":
            _open(data, kind).verify()  # the checksums, which decoding ignores
        return _upright_rgb(_open(data, kind), limits)


def _check_bytes(n: int, limits: ImageLimits) -> None:
    if n == 0:
        raise BadImage("EMPTY_IMAGE", "the photo is empty: it has 0 bytes")
    if n > limits.max_bytes:
        raise BadImage("IMAGE_TOO_LARGE_BYTES", f"the photo has {n} bytes, at most {limits.max_bytes} are accepted")


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    size, long, short = f"the photo is {width} x {height} pixels", max(width, height), min(width, height)
    if width * height > limits.max_pixels or long > limits.max_side:
        limit = f"{limits.max_pixels} pixels and {limits.max_side} on a side"
        raise BadImage("IMAGE_TOO_MANY_PIXELS", f"{size}, at most {limit} are accepted")
    if short < limits.min_side:
        raise BadImage("IMAGE_TOO_SMALL", f"{size}, at least {limits.min_side} on a side are needed")
    if long > limits.max_aspect * short:
        raise BadImage("IMAGE_BAD_ASPECT", f"{size}, one side may be at most {limits.max_aspect:g} times the other")


def _kind(data: bytes) -> str:
    """JPEG, PNG, WEBP or GIF by the first bytes, whatever the file was called."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    brands = {data[8:12], *(data[n : n + 4] for n in range(16, min(len(data), 64), 4))}
    if data[4:8] == b"ftyp" and brands & _HEIC_BRANDS:
        raise BadImage("HEIC_UNSUPPORTED", "the photo is HEIC, which is not read here: send it as JPEG, PNG or WebP")
    raise BadImage("UNSUPPORTED_FORMAT", f"the photo is not JPEG, PNG, WebP or GIF: it starts with {data[:8]!r}")


@contextmanager
def _only_bad_image(kind: str) -> Iterator[None]:
    """Whatever a decoder raises on hostile bytes becomes a BadImage."""
    try:
        yield
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise BadImage("IMAGE_TOO_MANY_PIXELS", f"the {kind} unpacks to too many pixels") from e
    except UnidentifiedImageError as e:
        raise BadImage("CORRUPT_IMAGE", f"the {kind} is damaged: its header cannot be read") from e
    except Exception as e:
        why = " ".join(str(e).split()) or type(e).__name__
        raise BadImage("CORRUPT_IMAGE", f"the {kind} is damaged: {why}") from e


def _open(data: bytes, kind: str) -> Image.Image:
    """The picture's header; no other format than the one sniffed is ever parsed."""
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=(kind,))


def _decode_jpeg(data: bytes, limits: ImageLimits, needed: tuple[int, int] | None) -> NDArray[np.uint8] | None:
    """Strict decoding: a warning of libjpeg is an error. None if TurboJPEG does not know the kind of subsampling."""
    if (scans := _scans(data)) > limits.max_scans:
        raise BadImage("CORRUPT_IMAGE", f"the JPEG has {scans} scans, at most {limits.max_scans} are accepted")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size(width, height, limits)
    try:
        orientation = _orientation(_open(data, "JPEG"))
    except Exception:  # a header that only Pillow minds
        orientation = 1
    rows, columns = needed or (0, 0)
    if orientation in _ON_ITS_SIDE:
        rows, columns = columns, rows
    rgb_HW3 = simplejpeg.decode_jpeg(data, "RGB", min_height=rows, min_width=columns, min_factor=2 if needed else 1)
    return _upright(rgb_HW3, orientation)


def _scans(jpeg: bytes) -> int:
    """How many passes over the pixels a JPEG asks for."""
    at, scans = 2, 0
    while (found := _JPEG_MARKER.search(jpeg, at)) and found[0][1] != _END_OF_IMAGE:
        scans += found[0][1] == _START_OF_SCAN
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
    return scans


def _upright_rgb(picture: Image.Image, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode an opened picture: transparency on white, 8 bits, RGB, turned as EXIF says."""
    _check_size(*picture.size, limits)
    picture.load()
    rgb_HW3 = np.empty((picture.height, picture.width, 3), np.uint8)
    for top in range(0, picture.height, _STRIP_ROWS):
        strip = picture.crop((0, top, picture.width, min(top + _STRIP_ROWS, picture.height)))
        rgb_HW3[top : top + _STRIP_ROWS] = _rgb_of_16_bits(strip) if strip.mode.startswith("I") else _on_white(strip)
    return _upright(rgb_HW3, _orientation(picture))


def _on_white(picture: Image.Image) -> NDArray[np.uint8]:
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB"))
    picture = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return np.asarray(white)


def _rgb_of_16_bits(picture: Image.Image) -> NDArray[np.uint8]:
    """Grey with 16 bits: the upper 8 bits (Pillow's own conversion clips to white), what is transparent white."""
    grey_HW = np.asarray(picture)
    upper_HW = np.clip(grey_HW >> 8, 0, 255).astype(np.uint8)
    if isinstance(hidden := picture.info.get("transparency"), int):
        upper_HW[grey_HW == hidden] = 255
    return np.repeat(upper_HW[:, :, None], 3, axis=2)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 (as stored) to 8; damaged EXIF is common in good photos and counts as 1."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _upright(rgb_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror a photo to how it is to be seen."""
    pixels_HW = rgb_HW3.view("V3")[:, :, 0]  # a pixel as one element: turning is three times as fast
    if orientation in _ON_ITS_SIDE:
        pixels_HW = pixels_HW.T
    if orientation in (3, 4, 7, 8):
        pixels_HW = pixels_HW[::-1]
    if orientation in (2, 3, 6, 7):
        pixels_HW = pixels_HW[:, ::-1]
    return np.ascontiguousarray(pixels_HW).view(np.uint8).reshape(*pixels_HW.shape, 3)


def _rgb_of_array(pixels: NDArray[np.uint8], limits: ImageLimits) -> NDArray[np.uint8]:
    shape = pixels.shape
    if pixels.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        wanted = "uint8 [height, width, 3] in RGB or [height, width]"
        raise BadImage("UNSUPPORTED_FORMAT", f"an array of pixels is {wanted}, got {pixels.dtype} {list(shape)}")
    if pixels.size == 0:
        raise BadImage("EMPTY_IMAGE", f"the array of pixels is empty: {list(shape)}")
    _check_size(shape[1], shape[0], limits)
    return np.ascontiguousarray(pixels if len(shape) == 3 else np.broadcast_to(pixels[:, :, None], (*shape, 3)))
