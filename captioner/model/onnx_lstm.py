"""A text through one LSTM layer as one node of the exported graph, where a loop would take some forty nodes a word.

Shapes: N texts, Q words, I inputs, H hidden units, G = 4H gates in the order i, f, o, g.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

torch.library.define(
    "captioner::lstm",
    "(Tensor inputs, Tensor lengths, Tensor weight, Tensor recurrent, Tensor bias, int hidden_size)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("captioner::lstm")  # type: ignore[untyped-decorator]
def _shapes(
    inputs_QNI: Tensor, lengths_N: Tensor, weight_GI: Tensor, recurrent_GH: Tensor, bias_G: Tensor, hidden_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    steps, texts, _ = inputs_QNI.shape
    last_NH = inputs_QNI.new_empty(texts, hidden_size)
    return inputs_QNI.new_empty(steps, texts, hidden_size), last_NH, torch.empty_like(last_NH)


def lstm(
    inputs_QNI: Tensor, lengths_N: Tensor, weight_GI: Tensor, recurrent_GH: Tensor, bias_G: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """h of every step [Q, N, H], and h and c [N, H] after each text's own length; only while a graph is exported."""
    outputs: tuple[Tensor, Tensor, Tensor] = torch.ops.captioner.lstm(
        inputs_QNI, lengths_N.int(), weight_GI, recurrent_GH, bias_G, recurrent_GH.shape[1]
    )
    return outputs


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What the exporter writes for the operator above, for its `custom_translation_table`."""
    import onnxscript

    op: Any = onnxscript.opset20  # typed too narrowly for its own constants

    def write(inputs: Any, lengths: Any, weight: Any, recurrent: Any, bias: Any, hidden_size: int) -> Any:
        first, last = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])

        def ordered(gates: Any) -> Any:
            """ONNX wants i, o, f, g, and an axis for the direction."""
            i, f, o, g = op.Split(gates, axis=0, num_outputs=4)
            return op.Unsqueeze(op.Concat(i, o, f, g, axis=0), first)

        biases = ordered(bias)
        both = op.Concat(biases, op.Sub(biases, biases), axis=1)  # of the inputs, and none of the state
        every, hidden, cell = op.LSTM(
            inputs, ordered(weight), ordered(recurrent), both, lengths, hidden_size=hidden_size
        )
        return op.Squeeze(every, last), op.Squeeze(hidden, first), op.Squeeze(cell, first)

    return {torch.ops.captioner.lstm.default: write}
