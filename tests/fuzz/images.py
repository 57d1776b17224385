"""Any bytes end as pixels or as a BadImage with one of the declared reasons."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any, get_args

import numpy as np
from PIL import Image

from captioner.images import BadImage, ImageLimits, Reason, decode_image

LIMITS = ImageLimits(max_pixels=2**20)
"""Fewer than in service, so that an input costs microseconds; tests/test_images.py has the large ones."""
NEEDED = (16, 16)
REASONS = get_args(Reason)
LONGEST_MESSAGE = 400
PNG = b"\x89PNG\r\n\x1a\n"


def one_input(data: bytes) -> None:
    """Decode; whole or no larger than needed, as the data has it."""
    try:
        rgb_HW3 = decode_image(data, LIMITS, NEEDED if zlib.crc32(data) % 2 else None)
    except BadImage as error:
        _check(error)
        return
    assert rgb_HW3.dtype == np.uint8
    assert rgb_HW3.flags.c_contiguous
    height, width, channels = rgb_HW3.shape
    assert channels == 3
    assert height * width <= LIMITS.max_pixels


def _check(error: BadImage) -> None:
    assert error.reason in REASONS, error.reason
    assert 0 < len(str(error)) <= LONGEST_MESSAGE, str(error)
    assert "\n" not in str(error), str(error)


def repaired(data: bytes) -> bytes:
    """A PNG with the right checksums, or it would be refused for those alone; anything else as it is."""
    if not data.startswith(PNG):
        return data
    parts, at = [PNG], len(PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join(parts) + data[at:]


def _saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    rows, columns = np.mgrid[0:20, 0:24].astype(np.uint8)
    drawn = Image.fromarray(np.stack([rows * 12, columns * 10, 255 - rows * columns // 2], axis=2))
    file = BytesIO()
    drawn.convert(mode).save(file, kind, **options)
    return file.getvalue()


def _sideways() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved("JPEG", exif=exif)


_FRAMES = [Image.new("RGB", (24, 20), colour) for colour in ("red", "green")]
SEEDS = {
    "jpeg": _saved("JPEG"),
    "jpeg-progressive": _saved("JPEG", progressive=True),
    "jpeg-grey": _saved("JPEG", "L"),
    "jpeg-cmyk": _saved("JPEG", "CMYK"),
    "jpeg-444": _saved("JPEG", subsampling=0),
    "jpeg-sideways": _sideways(),
    "jpeg-restarts": _saved("JPEG", restart_marker_blocks=1),
    "png": _saved("PNG"),
    "png-alpha": _saved("PNG", "RGBA"),
    "png-grey-alpha": _saved("PNG", "LA"),
    "png-palette": _saved("PNG", "P", transparency=3),
    "png-bits": _saved("PNG", "1"),
    "png-16": _saved("PNG", "I;16"),
    "png-animated": _saved("PNG", save_all=True, append_images=_FRAMES),
    "png-icc": _saved("PNG", icc_profile=bytes(128), dpi=(72, 72)),
    "gif": _saved("GIF"),
    "gif-animated": _saved("GIF", save_all=True, append_images=_FRAMES, transparency=2),
    "webp": _saved("WEBP"),
    "webp-lossless": _saved("WEBP", lossless=True),
    "webp-alpha": _saved("WEBP", "RGBA"),
    "webp-animated": _saved("WEBP", save_all=True, append_images=_FRAMES),
}
