"""Texts read into one vector each, from the numbers of their words, padding behind, and from the words' vectors.

Shapes: N questions, Q words, E word vector, H hidden units, L layers, S = 2 L H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captioner.model.cells import LstmStack
from captioner.model.loops import while_loop
from captioner.vocabulary import PAD


class LstmReader(nn.Module):
    """The final h and c of every layer [N, S] ("deeper LSTM Q", Agrawal et al., 2015); of no words zeros."""

    def __init__(self, embed_size: int, hidden_size: int, layers: int, dropout: float):
        super().__init__()
        self.cells = LstmStack(embed_size, 0, hidden_size, layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.size: int = 2 * layers * hidden_size

    def forward(self, question_NQ: Tensor, vectors_NQE: Tensor) -> Tensor:
        gates_NQG = self.cells.gates(self.dropout(vectors_NQE))
        length_N1 = (question_NQ != PAD).sum(dim=1, keepdim=True)
        longest = length_N1.amax(dim=(0, 1))
        # Made from the words, so that the exported graph has the questions' own number of rows.
        state_NS = gates_NQG[:, 0, :1] * 0 + gates_NQG.new_zeros(self.size)

        def more(t: Tensor, state_NS: Tensor) -> Tensor:
            return t < longest

        def read(t: Tensor, state_NS: Tensor) -> tuple[Tensor, Tensor]:
            gates_NG = gates_NQG.index_select(1, t.reshape(1)).squeeze(1)
            new_NS, _ = self.cells(gates_NG, state_NS[:, :0], state_NS)
            return t + 1, torch.where(t < length_N1, new_NS, state_NS)

        t = torch.zeros((), dtype=torch.long, device=question_NQ.device)
        last_NS: Tensor
        _, last_NS = while_loop()(more, read, (t, state_NS))
        return last_NS


class BagReader(nn.Module):
    """The mean of the word vectors [N, E], whatever their order; no words: zeros."""

    def __init__(self, embed_size: int, dropout: float):
        super().__init__()
        self.dropout, self.size = nn.Dropout(dropout), embed_size

    def forward(self, question_NQ: Tensor, vectors_NQE: Tensor) -> Tensor:
        words_NQ1 = (question_NQ != PAD).to(vectors_NQE.dtype)[:, :, None]
        mean_NE: Tensor = self.dropout((vectors_NQE * words_NQ1).sum(1) / words_NQ1.sum(1).clamp(min=1))
        return mean_NE
