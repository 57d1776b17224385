"""LSTM cells as explicit matrix products (Hochreiter and Schmidhuber, 1997; with a forget gate).

    (i, f, o, g) = split(W [x; h] + b)        one fused product for all gates
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')

The pre-activations are open so that a picture can be added to them (first-step injection) and so that teacher forcing
can take the product with all words of all captions at once.
Shapes: ... any leading axes, R recurrent inputs, H hidden units, G = 4H gates in the order i, f, o, g.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LstmCell(nn.Module):
    """One LSTM layer, one step at a time; W is kept in two parts, for what is known beforehand and what is not."""

    def __init__(self, input_size: int, recurrent_size: int, hidden_size: int):
        super().__init__()
        self.inputs = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(recurrent_size, 4 * hidden_size, bias=False)
        bound = hidden_size**-0.5
        nn.init.uniform_(self.inputs.weight, -bound, bound)
        nn.init.uniform_(self.recurrent.weight, -bound, bound)
        nn.init.zeros_(self.inputs.bias)
        with torch.no_grad():  # remember by default (Jozefowicz et al., 2015)
            self.inputs.bias[hidden_size : 2 * hidden_size] = 1.0

    def forward(self, gates: Tensor, recurrent: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden state and cell [..., H].

        `gates` [..., G] are the pre-activations so far, `recurrent` [..., R] the rest of the input (the state before,
        and what attention saw).
        """
        i, f, o, g = (gates + self.recurrent(recurrent)).chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell
