"""What the captioner returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Word:
    """One word of a caption."""

    text: str
    log_prob: float
    """log p(word | picture, words before), natural logarithm."""
    attention: NDArray[np.float32] | None
    """Where the model looked for it: [rows, columns] of the grid over the whole photo, sums to 1; None without."""


@dataclass(frozen=True, eq=False)
class Caption:
    """One sentence about a photo."""

    text: str
    log_prob: float
    """log p(caption | picture): the sum over its words and, if it ended by itself, the end mark."""
    score: float
    """What captions are ranked by: log_prob / length ** length_power, the end mark counted in the length."""
    words: tuple[Word, ...]
