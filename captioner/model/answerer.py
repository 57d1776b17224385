"""Networks that answer a question about the encoder's grid. With u the question, v the mean of the grid:

    product        h = tanh(W_q u) * tanh(W_v v / |v|)        "deeper LSTM Q + norm I" (Agrawal et al., 2015)
    sum            h = [tanh(W_q u); tanh(W_v c / |c|)], c the batch norm of v, so that W h adds what
                   the question and the picture each say about an answer
    attention      u_0 = tanh(W_0 u), u_n = u_{n-1} + z_n, z_n seen in the grid by the state u_{n-1} (stacked attention,
                   Yang et al., 2016; one hop: Zhu et al., 2016; a hop is captioner.model.attention), and
                   h = tanh(W_q u) * (W_z z_N + W_v v), without the last term if the settings say so (whole)
    question_only  h = tanh(W_q u)
    picture_only   h = tanh(W_v v / |v|)
    jabri          h_a = relu(W_q u + W_v v / |v| + W_a a), a score w . h_a for each candidate answer a
                   (Jabri et al., 2016); u and a are means of word vectors

and all but the last end in softmax(W h) over the answers that are known. Stacked attention proper ends in h = u_N, but
a sum compares nothing: on the drawn scenes, on a frozen encoder with random weights, it answers yes/no questions no
better than chance (69.0 % of all questions after seven epochs of `python -m training scenes_vqa`, with the product
95.1 %, seed 0).

In a dialog the questions and answers before are read as one more text and fused with the question (late fusion, Das et
al., 2017): u = tanh(W [question; history]).

Shapes: B pictures, K questions of each, P grid cells, C channels, Q words, D question vector, F fused units, A answers,
W words of an answer, E word vector, O candidates of one question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.config import AnswererConfig
from captioner.model.attention import SoftAttention
from captioner.model.questions import BagReader, LstmReader
from captioner.vocabulary import PAD


class Answers(NamedTuple):
    """Scores, and where was looked for them."""

    scores_BKA: Tensor
    """Before softmax."""
    attention_BKP: Tensor | None
    """Of the last hop; None without attention."""


class Answerer(nn.Module):
    """Answers from a grid [B, P, C]; `grid` is its rows, columns and channels C, `words` and `answers` are counts."""

    def __init__(self, config: AnswererConfig, grid: tuple[int, int, int], words: int, answers: int):
        super().__init__()
        c = self.config = config
        self.embed = nn.Embedding(words, c.embed_size, padding_idx=PAD)
        lstm = c.embed_size, c.hidden_size, c.layers, c.dropout
        bag = c.kind == "jabri" and not c.history
        self.read = BagReader(c.embed_size, c.dropout) if bag else LstmReader(*lstm)
        size = self.read.size
        self.read_history = LstmReader(*lstm) if c.history else None
        self.join = nn.Linear(2 * size, size) if c.history else None
        self.fuse = _FUSIONS[c.kind](c, grid, size)
        self.score = _Triples(c) if c.kind == "jabri" else _Classes(c, answers)

    def forward(
        self,
        grid_BPC: Tensor,
        question_BKQ: Tensor,
        history_BKQ: Tensor | None = None,
        candidates_AW: Tensor | None = None,
        options_BKO: Tensor | None = None,
    ) -> Answers:
        """Score the answers of K questions about each picture.

        With `jabri` candidates_AW are the answers' words, and options_BKO, if given, says which of them each question
        chooses between: the scores are then [B, K, O].
        """
        question_BKD = self._read(self.read, question_BKQ)
        if self.read_history is not None and self.join is not None:
            assert history_BKQ is not None, "a network for dialogs needs the history, empty or not"
            question_BKD = self.join(
                torch.cat([question_BKD, self._read(self.read_history, history_BKQ)], dim=2)
            ).tanh()
        fused_BKF, attention_BKP = self.fuse(grid_BPC, question_BKD)
        candidates_AE = None
        if isinstance(self.score, _Triples):
            assert candidates_AW is not None, "jabri needs candidates"
            candidates_AE = self.score.read(candidates_AW, self.embed(candidates_AW))
        return Answers(self.score(fused_BKF, candidates_AE, options_BKO), attention_BKP)

    def _read(self, read: nn.Module, words_BKQ: Tensor) -> Tensor:
        """Texts [B, K, Q] as vectors [B, K, D]."""
        words_NQ = words_BKQ.flatten(0, 1)
        vectors: Tensor = read(words_NQ, self.embed(words_NQ))
        return vectors.view(*words_BKQ.shape[:2], vectors.shape[1])


class _Classes(nn.Module):
    """One of the answers that are known."""

    def __init__(self, config: AnswererConfig, answers: int):
        super().__init__()
        size = config.fusion_size * (2 if config.kind == "sum" else 1)
        self.classify, self.dropout = nn.Linear(size, answers), nn.Dropout(config.dropout)

    def forward(self, fused_BKF: Tensor, candidates_AE: Tensor | None, options_BKO: Tensor | None) -> Tensor:
        scores_BKA: Tensor = self.classify(self.dropout(fused_BKF))
        return scores_BKA


class _Triples(nn.Module):
    """Any words as an answer: a score for picture, question and candidate together."""

    def __init__(self, config: AnswererConfig):
        super().__init__()
        self.read = BagReader(config.embed_size, config.dropout)
        self.candidate = nn.Linear(config.embed_size, config.fusion_size, bias=False)
        self.score, self.dropout = nn.Linear(config.fusion_size, 1), nn.Dropout(config.dropout)

    def forward(self, fused_BKF: Tensor, candidates_AE: Tensor | None, options_BKO: Tensor | None) -> Tensor:
        candidates = self.candidate(candidates_AE)
        if options_BKO is not None:
            candidates = functional.embedding(options_BKO, candidates)
        triples_BKAF = self.dropout((fused_BKF[:, :, None] + candidates).relu())
        scores_BKA: Tensor = self.score(triples_BKAF).squeeze(3)
        return scores_BKA


class _Product(nn.Module):
    """Question and pooled picture, each a vector of F; multiplied, added or one of them alone."""

    def __init__(self, config: AnswererConfig, grid: tuple[int, int, int], question_size: int):
        super().__init__()
        self.kind = config.kind
        self.question = nn.Linear(question_size, config.fusion_size) if config.kind != "picture_only" else None
        self.picture = nn.Linear(grid[2], config.fusion_size) if config.kind != "question_only" else None
        if self.picture is not None:  # for inputs of length 1, whose elements are small
            nn.init.normal_(self.picture.weight, std=1.0)
        # The mean of non-negative features points the same way for every picture: centred, it tells them apart.
        self.centre = nn.BatchNorm1d(grid[2], affine=False) if config.kind == "sum" else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, grid_BPC: Tensor, question_BKD: Tensor) -> tuple[Tensor, None]:
        parts = []
        if self.question is not None:
            parts.append(self.question(question_BKD))
        if self.picture is not None:
            pooled_BC = grid_BPC.mean(dim=1)
            pooled_BC = functional.normalize(pooled_BC if self.centre is None else self.centre(pooled_BC), dim=1)
            parts.append(self.picture(self.dropout(pooled_BC))[:, None] + question_BKD[:, :, :1] * 0)
        if self.kind == "jabri":
            return parts[0] + parts[1], None
        if self.kind == "sum":
            return torch.cat(parts, dim=2).tanh(), None
        fused_BKF = parts[0].tanh()
        return (fused_BKF * parts[1].tanh() if len(parts) == 2 else fused_BKF), None


class _Attention(nn.Module):
    """Stacked attention: the grid is looked at again and again, each time by what was seen before."""

    def __init__(self, config: AnswererConfig, grid: tuple[int, int, int], question_size: int):
        super().__init__()
        rows, columns, channels = grid
        size = config.fusion_size
        self.question = nn.Linear(question_size, size)
        self.project = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, size), nn.ReLU())
        self.position_PF = nn.Parameter(torch.zeros(rows * columns, size)) if config.positions else None
        self.hops = nn.ModuleList([SoftAttention(size, size, config.attention_size) for _ in range(config.hops)])
        self.ask = nn.Linear(question_size, size)
        self.seen = nn.Linear(size, size)
        self.whole = nn.Linear(size, size) if config.whole else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, grid_BPC: Tensor, question_BKD: Tensor) -> tuple[Tensor, Tensor]:
        grid_BPF = self.project(grid_BPC)
        if self.position_PF is not None:
            grid_BPF = grid_BPF + self.position_PF
        grid_BPF = self.dropout(grid_BPF)
        state_BKF = self.question(question_BKD).tanh()
        seen_BKF, where_BKP = state_BKF, question_BKD
        for module in self.hops:
            hop = cast(SoftAttention, module)
            seen_BKF, where_BKP = hop(grid_BPF, hop.keys(grid_BPF), state_BKF)
            state_BKF = state_BKF + seen_BKF
        picture_BKF = self.seen(seen_BKF)
        if self.whole is not None:
            picture_BKF = picture_BKF + self.whole(grid_BPF.mean(dim=1))[:, None]
        return self.ask(question_BKD).tanh() * picture_BKF, where_BKP


_FUSIONS: dict[str, Callable[[AnswererConfig, tuple[int, int, int], int], nn.Module]] = {
    "product": _Product,
    "sum": _Product,
    "attention": _Attention,
    "question_only": _Product,
    "picture_only": _Product,
    "jabri": _Product,
}
