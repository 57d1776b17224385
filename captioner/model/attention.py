"""Soft attention over a grid (Xu et al., 2015, section 4.2, equations 4, 5 and 13).

    e_p   = w . tanh(W_a a_p + W_h h)          how much cell p matters after state h
    alpha = softmax(e)                         where to look
    beta  = sigmoid(w_beta . h)                whether to look at all
    z     = beta sum_p alpha_p a_p             what is seen

Shapes: N rows (captions or pictures), K beams of a row, P grid cells, F channels, A attention units, H hidden units.
"""

from __future__ import annotations

from torch import Tensor, nn


class SoftAttention(nn.Module):
    """Additive attention with the gate beta; the keys W_a a are made once per picture."""

    def __init__(self, feature_size: int, hidden_size: int, attention_size: int):
        super().__init__()
        self.to_keys = nn.Linear(feature_size, attention_size)
        self.to_query = nn.Linear(hidden_size, attention_size + 1)
        self.score = nn.Linear(attention_size, 1, bias=False)

    def keys(self, grid_NPF: Tensor) -> Tensor:
        """W_a a for every cell, the same for all beams: [N, 1, P, A]."""
        keys_NPA: Tensor = self.to_keys(grid_NPF)
        return keys_NPA[:, None]

    def forward(self, grid_NPF: Tensor, keys_N1PA: Tensor, hidden_NKH: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen [N, K, F] and where it was looked for [N, K, P]."""
        query_NKA, beta_NK1 = self.to_query(hidden_NKH).split([keys_N1PA.shape[3], 1], dim=2)
        scores_NKP = self.score((keys_N1PA + query_NKA[:, :, None]).tanh()).squeeze(3)
        where_NKP = scores_NKP.softmax(dim=2)
        return beta_NK1.sigmoid() * (where_NKP @ grid_NPF), where_NKP
