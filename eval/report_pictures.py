"""Pictures inside a report: small photos, and the shades that lie over them where a model did not look."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.figure import spread
from captioner.images import BadImage, read_photo
from eval.coco import CocoPicture

LONG_SIDE = 320
"""Of a photo in the report, in pixels."""
QUALITY = 75
FINE = 4
"""Pixels of a shade per cell of the grid; the browser smooths between them."""
DARKEST = 0.82
"""How much of the photo a shade hides where the model did not look."""


def shade(map_RC: NDArray[np.float32]) -> str:
    """Data URI of a PNG that hides the photo where the map is low: night all over, its alpha the lack of attention."""
    rows, columns = map_RC.shape
    light_hw = spread(rows, FINE * rows) @ map_RC.astype(np.float64) @ spread(columns, FINE * columns).T
    alpha_hw = 255 * DARKEST * (1 - light_hw / max(light_hw.max(), 1e-12))
    pixels_hw2 = np.stack([np.full_like(alpha_hw, 20), alpha_hw], axis=-1)
    return data_uri(Image.fromarray(np.rint(pixels_hw2).astype(np.uint8), "LA"), "PNG", optimize=True)


def small_photos(pictures: Sequence[CocoPicture]) -> dict[int, Image.Image]:
    """By image id, without those that cannot be read; ValueError if none can."""
    photos, first = {}, None
    for picture in pictures:
        try:
            photo = Image.fromarray(read_photo(picture.path, needed=(LONG_SIDE, LONG_SIDE)))
        except (BadImage, OSError) as e:
            first = first or f"{picture.path}: {e.strerror if isinstance(e, OSError) else e}"
            continue
        scale = LONG_SIDE / max(photo.size)
        size = max(1, round(scale * photo.width)), max(1, round(scale * photo.height))
        photos[picture.image_id] = photo.resize(size, Image.Resampling.LANCZOS)
    if not photos:
        raise ValueError(f"none of the {len(pictures)} photos to show can be read; the first: {first}")
    return photos


def data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    """The picture inside an address; options as for Image.save."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"


def jpeg(photo: Image.Image) -> str:
    """Data URI of a photo."""
    return data_uri(photo, "JPEG", quality=QUALITY, optimize=True)
