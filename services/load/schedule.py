"""Who calls when: made before the run, so that nothing which the server does can change it (an open loop)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from captioner.config import at_least

Kind = Literal["good", "bad", "slow", "cancel", "question"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_CALLS = 5_000_000
"""Of one run: each is remembered, in about 60 bytes."""


@dataclass(frozen=True)
class Schedule:
    """N calls in the order of their times."""

    due_N: NDArray[np.float64]
    """Seconds; the warm-up's are negative."""
    kinds_N: NDArray[np.uint8]
    """Places in KINDS."""


def shares(text: str) -> dict[Kind, float]:
    """ "good=9,bad=1" as shares that sum to 1; raises ValueError."""
    found: dict[Kind, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        kind = next((kind for kind in KINDS if kind == name.strip()), None)
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if kind is None or not equals or not 0 <= share < np.inf:
            raise ValueError(f"the mix must be like good=9,bad=1 with kinds of {', '.join(KINDS)}, got {part!r}")
        found[kind] = share
    if not (total := sum(found.values())):
        raise ValueError(f"the mix needs a share above 0, got {text!r}")
    return {kind: share / total for kind, share in found.items()}


def schedule(
    rate: float,
    seconds: float,
    warm: float = 0.0,
    mix: Mapping[Kind, float] | None = None,
    poisson: bool = False,
    seed: int = 0,
) -> Schedule:
    """Calls at `rate` a second from -warm to `seconds`; mix: share of each kind, None for good calls only.

    Evenly spaced, or with poisson independent of each other as those of many people are. The kinds come in random
    order, in their exact shares.
    """
    total = warm + seconds
    if not rate > 0 or not seconds > 0 or not warm >= 0:
        raise ValueError(f"rate and seconds must be above 0 and warm at least 0, got {rate}, {seconds} and {warm}")
    if rate * total > MOST_CALLS:
        raise ValueError(f"a run has at most {MOST_CALLS} calls, got {rate * total:.0f}")
    random = np.random.default_rng(seed)
    count = int(random.poisson(rate * total)) if poisson else round(rate * total)
    at_least("calls of the run", count, 1)
    # Given how many there are, the times of a Poisson process are uniform.
    due_N = np.sort(random.uniform(0, total, count)) if poisson else np.arange(count) / rate
    mix = mix or {"good": 1.0}
    ends = np.round(np.cumsum([mix.get(kind, 0.0) for kind in KINDS]) * count).astype(int)
    kinds_N = np.repeat(np.arange(len(KINDS), dtype=np.uint8), np.diff(ends, prepend=0))
    return Schedule(due_N - warm, random.permutation(kinds_N))
