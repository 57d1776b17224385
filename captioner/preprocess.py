"""A photo as the encoder wants it: the one path of training, evaluation and serving.

Axes: H, W height and width of the photo; h, w those of the encoder's input; 3 red, green and blue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.config import Preprocessing
from captioner.images import LIMITS, ImageLimits, Photo, read_photo


def resize(rgb_HW3: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Squash to uint8 [h, w, 3], bilinear over all the pixels that an output pixel covers (antialiased)."""
    size = (preprocessing.width, preprocessing.height)
    return np.array(Image.fromarray(rgb_HW3).resize(size, Image.Resampling.BILINEAR))


def load_pixels(photo: Photo, preprocessing: Preprocessing, limits: ImageLimits = LIMITS) -> NDArray[np.uint8]:
    """The encoder's input uint8 [h, w, 3] for bytes, a path, a Pillow picture or an array; raises BadImage."""
    return resize(read_photo(photo, limits, (preprocessing.height, preprocessing.width)), preprocessing)
