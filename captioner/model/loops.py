"""One loop for torch and for the exported graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loop = Callable[..., tuple[Tensor, ...]]
"""loop(more, body, carried): apply body to what is carried while more of it is true."""


def while_loop() -> Loop:
    """torch's own loop where it is being exported; a plain one in eager mode, where torch's would compile first."""
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.while_loop import while_loop as torchs

        loop: Loop = torchs
        return loop
    return _eager_loop


def _eager_loop(
    more: Callable[..., Tensor], body: Callable[..., tuple[Tensor, ...]], carried: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    while bool(more(*carried)):
        carried = body(*carried)
    return carried
