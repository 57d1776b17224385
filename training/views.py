"""Augmented views of a photo, each the same whenever it is asked for: a frozen encoder sees every view only once.

View 0 is the photo, view 1 its mirror image, every further view a crop of at least half its area, mirrored when odd.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST_CROP = 0.5
"""Share of the photo's area."""


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
