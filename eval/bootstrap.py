"""How sure a score is: the bootstrap over pictures (Efron and Tibshirani, 1993; for BLEU, Koehn, 2004).

A resample draws N of the N pictures with replacement. Document frequencies of CIDEr stay those of the whole set.
Shapes: N pictures, S statistics of a metric, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eval.metrics.scores import Floats, Scores

RESAMPLES = 1000
SEED = 0
_BLOCK = 100  # resamples whose counts of N pictures lie in memory at a time


def resampled(scores: Mapping[str, Scores], resamples: int = RESAMPLES) -> dict[str, Floats]:
    """Each metric [R] on the same random sets of pictures, every time the same."""
    pictures = len(next(iter(scores.values())).per_picture_N)
    random = np.random.default_rng(SEED)
    found: dict[str, list[Floats]] = {name: [] for name in scores}
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        drawn_RN = random.integers(0, pictures, (count, pictures))
        times_RN = np.stack([np.bincount(row, minlength=pictures) for row in drawn_RN]).astype(float)
        for name, own in scores.items():
            found[name].append(own.total(times_RN @ own.statistics_NS))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def intervals(scores: Mapping[str, Scores], resamples: int = RESAMPLES) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals."""
    found = resampled(scores, resamples)
    ends = {name: np.percentile(values_R, [2.5, 97.5]) for name, values_R in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


@dataclass(frozen=True)
class Difference:
    """One metric of results A less that of results B on the same pictures."""

    difference: float
    low: float
    """Of the 95 % interval."""
    high: float
    p_value: float
    """Two-sided: the share of resamples whose difference has the other sign, doubled; at least 2 / (resamples + 1)."""


def differences(a: Mapping[str, Scores], b: Mapping[str, Scores], resamples: int = RESAMPLES) -> dict[str, Difference]:
    """The paired bootstrap: both on the same resamples. The pictures have to be the same, in the same order."""
    one, other = resampled(a, resamples), resampled(b, resamples)
    found = {}
    for name in a:
        apart_R = one[name] - other[name]
        low, high = np.percentile(apart_R, [2.5, 97.5])
        tail = (1 + min((apart_R <= 0).sum(), (apart_R >= 0).sum())) / (1 + len(apart_R))
        found[name] = Difference(a[name].value - b[name].value, float(low), float(high), min(1.0, 2 * float(tail)))
    return found
