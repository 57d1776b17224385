"""The moving average of weights that is validated and kept (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def follow(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, steps: int) -> None:
    """Move the average, in place, after so many steps; at first the decay is less, so that it leaves its start soon."""
    decay = min(decay, (1 + steps) / (10 + steps))
    for name, value in average.items():
        if value.is_floating_point():
            value.lerp_(weights[name], 1 - decay)
        else:
            value.copy_(weights[name])
