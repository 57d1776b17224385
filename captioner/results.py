"""What a model says about a photo."""

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


@dataclass(frozen=True)
class Answer:
    """One answer to a question."""

    text: str
    probability: float
    """p(answer | picture, question), in [0, 1]; over all answers, or all candidates, they sum to 1."""


@dataclass(frozen=True, eq=False)
class Answered:
    """What became of a question about a photo."""

    answers: tuple[Answer, ...]
    """The most probable first."""
    attention: NDArray[np.float32] | None
    """Where the model looked: [rows, columns] of the grid over the whole photo, sums to 1; None without attention."""
    unknown_words: tuple[str, ...] = ()
    """Words of the question that the model does not know, each once, in order."""
    unknown_candidates: tuple[str, ...] = ()
    """Candidates that the model cannot give; their probability is 0."""
