"""Texts read into one vector each, from the numbers of their words, padding behind, and from the words' vectors.

Shapes: N questions, Q words, E word vector, H hidden units, L layers, S = 2 L H.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from captioner.model import onnx_lstm
from captioner.model.cells import LstmCell, LstmStack
from captioner.vocabulary import PAD


class LstmReader(nn.Module):
    """The final h and c of every layer [N, S] ("deeper LSTM Q", Agrawal et al., 2015); of no words zeros."""

    def __init__(self, embed_size: int, hidden_size: int, layers: int, dropout: float):
        super().__init__()
        self.cells = LstmStack(embed_size, 0, hidden_size, layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.size: int = 2 * layers * hidden_size

    def forward(self, question_NQ: Tensor, vectors_NQE: Tensor) -> Tensor:
        length_N = (question_NQ != PAD).sum(dim=1)
        if torch.compiler.is_exporting():
            return self._exported(length_N, vectors_NQE)
        gates_NQG = self.cells.gates(self.dropout(vectors_NQE))
        state_NS = gates_NQG.new_zeros(len(gates_NQG), self.size)
        for t in range(int(length_N.amax())):
            new_NS, _ = self.cells(gates_NQG[:, t], state_NS[:, :0], state_NS)
            state_NS = torch.where(t < length_N[:, None], new_NS, state_NS)
        return state_NS

    def _exported(self, length_N: Tensor, vectors_NQE: Tensor) -> Tensor:
        """The same, each layer one node of the graph."""
        seen_QNI, parts = vectors_NQE.transpose(0, 1), []
        for module in self.cells:
            cell = cast(LstmCell, module)
            weights = cell.inputs.weight, cell.recurrent.weight, cell.inputs.bias
            seen_QNI, hidden_NH, cell_NH = onnx_lstm.lstm(seen_QNI, length_N, *weights)
            parts += [hidden_NH, cell_NH]
        return torch.cat(parts, dim=1)


class BagReader(nn.Module):
    """The mean of the word vectors [N, E], whatever their order; no words: zeros."""

    def __init__(self, embed_size: int, dropout: float):
        super().__init__()
        self.dropout, self.size = nn.Dropout(dropout), embed_size

    def forward(self, question_NQ: Tensor, vectors_NQE: Tensor) -> Tensor:
        words_NQ1 = (question_NQ != PAD).to(vectors_NQE.dtype)[:, :, None]
        mean_NE: Tensor = self.dropout((vectors_NQE * words_NQ1).sum(1) / words_NQ1.sum(1).clamp(min=1))
        return mean_NE
