"""A metric's outcome in a form that can be resampled: statistics that add up over pictures, and what is made of them.

Shapes: N pictures, S statistics, ... any leading axes (resamples).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One metric on N pictures."""

    per_picture_N: Floats
    """Each picture by itself."""
    statistics_NS: Floats
    """What is summed over pictures."""
    total: Callable[[Floats], Floats]
    """From sums [..., S] to the metric [...]."""

    @property
    def value(self) -> float:
        """The metric of all pictures together."""
        return float(self.total(self.statistics_NS.sum(axis=0)))


def mean_of(per_picture_N: Floats) -> Scores:
    """A metric that is a plain mean over pictures."""
    statistics_N2 = np.stack([per_picture_N, np.ones_like(per_picture_N)], axis=1)
    return Scores(per_picture_N, statistics_N2, lambda sums: sums[..., 0] / sums[..., 1])
