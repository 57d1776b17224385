"""LSTM cells as explicit matrix products (Hochreiter and Schmidhuber, 1997; with a forget gate).

    (i, f, o, g) = split(W [x; h] + b)        one fused product for all gates
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')

The pre-activations are open so that a picture can be added to them (first-step injection) and so that teacher forcing
can take the product with all words of all captions at once.
Shapes: ... any leading axes, R recurrent inputs, H hidden units, G = 4H gates in the order i, f, o, g, L layers,
S = 2 L H state (h then c of each layer).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


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


class LstmStack(nn.ModuleList):
    """Stacked layers, one step at a time; the first may see more than its input (what attention saw)."""

    def __init__(self, input_size: int, seen_size: int, hidden_size: int, layers: int, dropout: float):
        """dropout: share of a layer's output that the next one does not get, in training."""
        first = LstmCell(input_size, seen_size + hidden_size, hidden_size)
        super().__init__([first, *(LstmCell(hidden_size, hidden_size, hidden_size) for _ in range(layers - 1))])
        self.hidden_size, self.dropout = hidden_size, dropout

    def gates(self, word: Tensor) -> Tensor:
        """The input's share of the first layer's pre-activations [..., G]."""
        gates: Tensor = cast(LstmCell, self[0]).inputs(word)
        return gates

    def forward(self, gates: Tensor, seen: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of all layers: the next state [..., S] and the last layer's hidden state [..., H].

        `gates` [..., G] as from gates(), `seen` what the first layer sees besides (its last axis may be empty).
        """
        old, parts = torch.split(state, self.hidden_size, dim=-1), []
        hidden = seen
        for n, module in enumerate(self):
            layer = cast(LstmCell, module)
            if n == 0:
                recurrent = torch.cat([seen, old[0]], dim=-1)
            else:
                gates = layer.inputs(functional.dropout(hidden, self.dropout, self.training))
                recurrent = old[2 * n]
            hidden, cell = layer(gates, recurrent, old[2 * n + 1])
            parts += [hidden, cell]
        return torch.cat(parts, dim=-1), hidden
