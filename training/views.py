"""Augmented views of photos.

Those of `view_of` are the same whenever they are asked for, so that a frozen encoder sees each of them only once: view
0 is the photo, view 1 its mirror image, every further view a crop of at least half its area, mirrored when odd.
`drawn` makes new ones each time, for an encoder that is being trained.

Shapes: B pictures, H x W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SMALLEST_CROP = 0.5
"""Share of the photo's area."""
ASPECT = 0.3
"""Largest logarithm of a drawn crop's height over its width, in the picture's own."""
CONTRAST, COLOUR = 0.3, 0.1
"""How far contrast and brightness, and each colour beside the others, go at most, as a share of their range."""


def is_crop(view: int) -> bool:
    """Whether a view is of a part of the photo only."""
    return view >= 2


def view_of(rgb_HW3: NDArray[np.uint8], view: int, image_id: int) -> NDArray[np.uint8]:
    """One view of a photo [H, W, 3]; crops are drawn from (image_id, view)."""
    if is_crop(view):
        random = np.random.default_rng([image_id, view])
        height, width = rgb_HW3.shape[:2]
        area, aspect = random.uniform(SMALLEST_CROP, 1.0), np.exp(random.uniform(-0.2, 0.2))
        rows = min(height, max(1, round(height * np.sqrt(area * aspect))))
        columns = min(width, max(1, round(width * np.sqrt(area / aspect))))
        top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
        rgb_HW3 = rgb_HW3[top : top + rows, left : left + columns]
    return rgb_HW3[:, ::-1] if view % 2 else rgb_HW3


def drawn(
    pixels_BHW3: NDArray[np.uint8], size: int, random: np.random.Generator, smallest: float, mixed: float
) -> NDArray[np.uint8]:
    """Views [B, size, size, 3] that will not come twice: crops of at least the share `smallest` of a picture's area,
    mirrored or not, in other colours; the share `mixed` of them with another one of the batch shining through (Zhang
    et al., 2018, "mixup")."""
    views = [_drawn(Image.fromarray(rgb_HW3), size, random, smallest) for rgb_HW3 in pixels_BHW3]
    others = random.permutation(len(views))
    shares = np.where(random.random(len(views)) < mixed, random.uniform(0, 0.5, len(views)), 0)
    blended = [Image.blend(view, views[n], share) for view, n, share in zip(views, others, shares, strict=True)]
    return np.stack([np.asarray(view) for view in blended])


def _drawn(picture: Image.Image, size: int, random: np.random.Generator, smallest: float) -> Image.Image:
    area, aspect = random.uniform(smallest, 1), np.exp(random.uniform(-ASPECT, ASPECT))
    width = picture.width * min(1.0, np.sqrt(area / aspect))
    height = picture.height * min(1.0, np.sqrt(area * aspect))
    left, top = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
    box = (left, top, left + width, top + height)
    view = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if random.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    contrast, brightness = random.uniform(1 - CONTRAST, 1 + CONTRAST), 128 * random.uniform(-CONTRAST, CONTRAST)
    factor_31 = contrast + random.uniform(-COLOUR, COLOUR, (3, 1))
    table_3N = (np.arange(256) - 128) * factor_31 + 128 + brightness
    return view.point(table_3N.clip(0, 255).round().astype(int).ravel().tolist())
