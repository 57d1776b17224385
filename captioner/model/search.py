"""Batched beam search as a module: eager torch runs it in validation, the exported graph runs it everywhere else.

A hypothesis ranks by log p(words) / length ** length_power; length_power 0 is the plain sum. Length counts the words
and the end mark. A finished hypothesis keeps its place until better ones push it out. Greedy search is one beam.

The search stops when every picture's `wanted` best hypotheses are finished and nothing unfinished can still overtake
them: a log-probability only falls, so an unfinished one can reach at most log p(so far) / T ** length_power. What is
returned is therefore the same as after all T steps.

Shapes: B pictures, K beams, N = B K rows, T steps, P grid cells (0 without attention), C channels, S state, V words,
X = 2 + P what is kept of each step: the word, its log-probability, where was looked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from captioner.model.decoder import Decoder
from captioner.model.loops import while_loop
from captioner.vocabulary import END, PAD, START, UNKNOWN

NEVER = -1e9
"""Log-probability of what must not happen; finite, so that sums of it stay ordered."""
MOST_BEAMS = 64
"""Of the exported graph."""


class Found(NamedTuple):
    """Hypotheses, best first."""

    words_BKT: Tensor
    """END after the last word if it ended by itself, then PAD."""
    word_log_probs_BKT: Tensor
    """0 after the end."""
    log_probs_BK: Tensor
    """Sums of the above. Under -1e8: fewer than K sentences are possible, this is none."""
    scores_BK: Tensor
    """What they are ranked by."""
    attention_BKTP: Tensor
    """Where was looked for each word; P = 0 without attention."""


class BeamSearch(nn.Module):
    """The `wanted` likeliest captions of a decoder among K beams; <unk>, <pad> and <start> are never produced."""

    banned_V: Tensor

    def __init__(self, decoder: Decoder, vocabulary_size: int):
        super().__init__()
        self.decoder = decoder
        banned_V = torch.zeros(vocabulary_size)
        banned_V[[PAD, START, UNKNOWN]] = NEVER
        self.register_buffer("banned_V", banned_V, persistent=False)

    def forward(
        self, grid_BPC: Tensor, first_scores_K: Tensor, steps_T: Tensor, length_power: Tensor, wanted: Tensor
    ) -> Found:
        """Search. first_scores_K is [0, -1e9, ...]: its length sets K. steps_T is arange(T).

        Both are inputs so that the exported graph takes any K and T; length_power (float) and wanted (int64) are
        scalars for the same reason.
        """
        memory, state_BS = self.decoder.start(grid_BPC)
        vocabulary_size = self.banned_V.shape[0]
        cells_BP = memory.grid_BPF[:, :, 0] if self.decoder.attend else memory.grid_BPF[:, :0, 0]
        log_probs_BK1 = (grid_BPC[:, :1, :1] * 0 + first_scores_K[:, None]).contiguous()
        words_BK1 = torch.zeros_like(log_probs_BK1, dtype=torch.long) + START
        state_BKS = (log_probs_BK1 * 0 + state_BS[:, None]).contiguous()
        blank_BKX = torch.cat([log_probs_BK1, log_probs_BK1, log_probs_BK1 * cells_BP[:, None]], dim=2)
        history_NTX = (blank_BKX.flatten(0, 1)[:, None] * steps_T[:, None] * 0).contiguous()
        # What does not change is made here, once. Tensors: a Python int of a shape stops the export inside the loop.
        longest, last_1 = (steps_T * 0 + 1).sum(), wanted.reshape(1) - 1
        powers_T = (steps_T.to(first_scores_K) + 1).pow(length_power)
        last_power = longest.to(first_scores_K).pow(length_power)
        row_BK1 = (words_BK1 * 0 + 1).flatten().cumsum(0).view_as(words_BK1) - 1
        # A candidate J is a row and one of its K next words.
        parent_J1 = (row_BK1 + first_scores_K.long() * 0).reshape(-1, 1)
        first_B1 = row_BK1[:, 0] * (first_scores_K * 0 + 1).sum().long()

        def more(t: Tensor, log_probs_BK1: Tensor, scores_BK: Tensor, done_BK1: Tensor, *rest: Tensor) -> Tensor:
            hope_BK1 = torch.where(done_BK1, 2 * NEVER, log_probs_BK1 / last_power)
            worst_B11 = scores_BK.index_select(1, last_1)[:, :, None]
            return (t < longest) & ((hope_BK1 - worst_B11).amax(dim=(0, 1, 2)) >= 0)

        def extend(
            t: Tensor,
            log_probs_BK1: Tensor,
            scores_BK: Tensor,
            done_BK1: Tensor,
            words_BK1: Tensor,
            state_BKS: Tensor,
            history_NTX: Tensor,
        ) -> tuple[Tensor, ...]:
            next_BKV, state_BKS, where_BKP = self.decoder.step(t, words_BK1.squeeze(2), state_BKS, memory)
            next_BKV = next_BKV + self.banned_V
            if vocabulary_size < MOST_BEAMS:  # then there may be fewer words than beams
                none_BKK = log_probs_BK1 * 0 + first_scores_K * 0 + NEVER
                next_BKV = torch.cat([next_BKV, none_BKK], dim=2)
            # No more than K words of a hypothesis can be among the K best of all.
            next_BKK, word_BKK = next_BKV.topk(scores_BK.shape[1], dim=2)
            next_BKK = torch.where(done_BK1, first_scores_K, next_BKK)
            word_BKK = torch.where(done_BK1, PAD, word_BKK)
            total_BKK = log_probs_BK1 + next_BKK
            ranked_BKK = torch.where(
                done_BK1, scores_BK[:, :, None] + next_BKK, total_BKK / powers_T.index_select(0, t.reshape(1))
            )
            scores_BK, chosen_BK = ranked_BKK.flatten(1).topk(scores_BK.shape[1], dim=1)
            chosen_BK = chosen_BK + first_B1
            log_probs_BK1, each_BK1, words_BK1 = (
                embedding(chosen_BK, x_BKK.reshape(-1, 1)) for x_BKK in (total_BKK, next_BKK, word_BKK)
            )
            if vocabulary_size < MOST_BEAMS:
                words_BK1 = words_BK1.clamp(max=vocabulary_size - 1)
            parent_BK = embedding(chosen_BK, parent_J1).squeeze(2)
            state_BKS = embedding(parent_BK, state_BKS.reshape(-1, state_BKS.shape[2]))
            where_BKP = embedding(parent_BK, where_BKP.flatten(0, 1))
            new_BKX = torch.cat([words_BK1.to(each_BK1), each_BK1, where_BKP], dim=2)
            new_N1X = new_BKX.reshape(-1, 1, new_BKX.shape[2])
            history_NTX = history_NTX.index_select(0, parent_BK.reshape(-1))
            history_NTX = torch.where((steps_T == t)[:, None], new_N1X, history_NTX)
            # <start>, the only other mark up to <end>, is never produced.
            return t + 1, log_probs_BK1, scores_BK, words_BK1 <= END, words_BK1, state_BKS, history_NTX

        t = torch.zeros((), dtype=torch.long, device=grid_BPC.device)
        scores_BK = log_probs_BK1.squeeze(2) * 1
        carried = (t, log_probs_BK1, scores_BK, words_BK1 < START, words_BK1, state_BKS, history_NTX)
        _, log_probs_BK1, scores_BK, _, _, _, history_NTX = while_loop()(more, extend, carried)
        history_BKTX = history_NTX.reshape(*scores_BK.shape, *history_NTX.shape[1:])
        words_BKT, each_BKT = history_BKTX[..., 0].long(), history_BKTX[..., 1]
        return Found(words_BKT, each_BKT, log_probs_BK1.squeeze(2), scores_BK, history_BKTX[..., 2:])


def inputs(beam_size: int, max_words: int, length_power: float = 0.0, wanted: int = 1) -> tuple[Tensor, ...]:
    """What forward takes after the grid."""
    first_K = torch.full((beam_size,), NEVER)
    first_K[0] = 0.0
    return first_K, torch.arange(max_words), torch.tensor(float(length_power)), torch.tensor(wanted)
