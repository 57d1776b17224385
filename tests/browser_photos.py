"""Drawn photos in all the ways that files have: soft colours, as those of a camera are."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def drawn(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A few large patches of colour that run into each other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, len(mode)), dtype=np.uint8)
    return Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)


def file(picture: Image.Image, kind: str, orientation: int = 1, **settings: Any) -> bytes:
    """The bytes of a file, with EXIF where it is turned."""
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        settings["exif"] = exif.tobytes()
    content = BytesIO()
    picture.save(content, kind, **settings)
    return content.getvalue()


EXACT = {
    "PNG": file(drawn(64, 64), "PNG"),
    "tall PNG": file(drawn(200, 90, seed=1), "PNG"),
    "wide PNG": file(drawn(90, 333, seed=2), "PNG"),
    "turned PNG": file(drawn(120, 80, seed=3), "PNG", 6),
    "grey PNG": file(drawn(150, 100, "L", 4), "PNG"),
    "PNG with 16 bits": file(Image.fromarray(np.asarray(drawn(90, 90, "L", 5)).astype(np.uint16) * 257), "PNG"),
    "PNG with a palette": file(drawn(150, 100, seed=6).quantize(32), "PNG"),
    "turned WebP": file(drawn(100, 120, seed=7), "WEBP", 8, lossless=True),
    "GIF": file(drawn(90, 120, seed=8).quantize(64), "GIF"),
    "small JPEG": file(drawn(100, 120, seed=9), "JPEG", quality=90),
}
"""Their pixels in the page are those of the runtime."""
CLOSE = {
    "transparent PNG": file(drawn(150, 100, "RGBA", 10), "PNG"),
    "JPEG at a half": file(drawn(150, 200, seed=11), "JPEG", quality=90),
    "JPEG at three eighths": file(drawn(180, 190, seed=12), "JPEG", quality=90),
    "JPEG at a quarter, whole colours": file(drawn(300, 280, seed=13), "JPEG", quality=90, subsampling=0),
    "JPEG at an eighth": file(drawn(720, 540, seed=14), "JPEG", quality=90),
    "progressive JPEG": file(drawn(300, 200, seed=15), "JPEG", quality=90, progressive=True),
    "grey JPEG": file(drawn(300, 200, "L", 16), "JPEG"),
    **{f"JPEG turned {n}": file(drawn(240, 160, seed=17), "JPEG", n, quality=90) for n in range(2, 9)},
}
"""Their pixels are as good as those of the runtime: transparency and reduced decoding round elsewhere."""
BAD = {
    "EMPTY_IMAGE": b"",
    "UNSUPPORTED_FORMAT": b"hello, this is no picture",
    "HEIC_UNSUPPORTED": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "CORRUPT_IMAGE": file(drawn(200, 200), "JPEG")[:2000],
    "IMAGE_TOO_SMALL": file(drawn(4, 40), "PNG"),
    "IMAGE_BAD_ASPECT": file(drawn(10, 300), "PNG"),
    "IMAGE_TOO_MANY_PIXELS": file(Image.new("1", (20_001, 1001)), "PNG"),
    "IMAGE_TOO_LARGE_BYTES": bytes(16 * 2**20 + 1),
}
"""By the reason of their refusal."""
