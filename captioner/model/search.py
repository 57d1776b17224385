"""Batched beam search as a module: eager torch runs it in validation, the exported graph runs it everywhere else.

A hypothesis ranks by log p(words) / length ** length_power; length_power 0 is the plain sum. Length counts the words
and the end mark. A finished hypothesis keeps its place until better ones push it out. Greedy search is one beam.

The search stops when every picture's `wanted` best hypotheses are finished and nothing unfinished can still overtake
them: a log-probability only falls, so an unfinished one can reach at most log p(so far) / T ** length_power. What is
returned is therefore the same as after all T steps.

Shapes: B pictures, K beams, T steps, P grid cells (0 without attention), C channels, S state, V words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captioner.model.decoder import Decoder
from captioner.vocabulary import END, PAD, START, UNKNOWN

NEVER = -1e9
"""Log-probability of what must not happen; finite, so that sums of it stay ordered."""


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
    only_pad_V: Tensor

    def __init__(self, decoder: Decoder, vocabulary_size: int):
        super().__init__()
        self.decoder = decoder
        banned_V = torch.zeros(vocabulary_size)
        banned_V[[PAD, START, UNKNOWN]] = NEVER
        only_pad_V = torch.full((vocabulary_size,), NEVER)
        only_pad_V[PAD] = 0.0
        self.register_buffer("banned_V", banned_V, persistent=False)
        self.register_buffer("only_pad_V", only_pad_V, persistent=False)

    def forward(
        self, grid_BPC: Tensor, first_scores_K: Tensor, steps_T: Tensor, length_power: Tensor, wanted: Tensor
    ) -> Found:
        """Search. first_scores_K is [0, -1e9, ...]: its length sets K. steps_T is arange(T).

        Both are inputs so that the exported graph takes any K and T; length_power (float) and wanted (int64) are
        scalars for the same reason.
        """
        memory, state_BS = self.decoder.start(grid_BPC)
        vocabulary_size = self.banned_V.shape[0]
        cells = memory.grid_BPF[:, :, 0] if self.decoder.attend else memory.grid_BPF[:, :0, 0]
        log_probs_BK = (grid_BPC[:, :1, 0] * 0 + first_scores_K[None]).contiguous()
        words_BK = torch.zeros_like(log_probs_BK, dtype=torch.long) + START
        found_BKT = (words_BK[:, :, None] * 0 + steps_T * 0).contiguous()
        each_BKT = found_BKT.to(log_probs_BK.dtype)
        maps_BKTP = (each_BKT[:, :, :, None] * cells[:, None, None] * 0).contiguous()
        done_BK = words_BK < 0
        lengths_BK = log_probs_BK * 0
        state_BKS = (log_probs_BK[:, :, None] * 0 + state_BS[:, None]).contiguous()
        wanted_K = (first_scores_K * 0 + 1).cumsum(0) <= wanted
        longest = (steps_T * 0 + 1).sum()  # a tensor: a Python int of a shape stops the export inside the loop

        def rank(log_probs: Tensor, lengths: Tensor) -> Tensor:
            return log_probs / lengths.clamp(min=1).pow(length_power)

        def more(
            t: Tensor, log_probs_BK: Tensor, lengths_BK: Tensor, words_BK: Tensor, done_BK: Tensor, *rest: Tensor
        ) -> Tensor:
            hope_BK = torch.where(done_BK, log_probs_BK * 0 + 2 * NEVER, rank(log_probs_BK, longest.to(log_probs_BK)))
            worst_B = torch.where(wanted_K, rank(log_probs_BK, lengths_BK), -2 * NEVER).amin(dim=1)
            settled_B = (done_BK | ~wanted_K).all(dim=1) & (hope_BK.amax(dim=1) <= worst_B)
            return (t < longest) & ~settled_B.all()

        def extend(
            t: Tensor,
            log_probs_BK: Tensor,
            lengths_BK: Tensor,
            words_BK: Tensor,
            done_BK: Tensor,
            found_BKT: Tensor,
            each_BKT: Tensor,
            maps_BKTP: Tensor,
            state_BKS: Tensor,
        ) -> tuple[Tensor, ...]:
            next_BKV, state_BKS, where_BKP = self.decoder.step(t, words_BK, state_BKS, memory)
            next_BKV = torch.where(done_BK[:, :, None], self.only_pad_V, next_BKV + self.banned_V)
            lengths_BK = torch.where(done_BK, lengths_BK, lengths_BK + 1)
            total_BKV = log_probs_BK[:, :, None] + next_BKV
            ranked_BKV = rank(total_BKV, lengths_BK[:, :, None])
            _, chosen_BK = ranked_BKV.flatten(1).topk(log_probs_BK.shape[1], dim=1)
            parent_BK, words_BK = chosen_BK // vocabulary_size, chosen_BK % vocabulary_size

            def follow(x: Tensor) -> Tensor:
                index = parent_BK.reshape(parent_BK.shape + (1,) * (x.dim() - 2))
                return x.gather(1, index.expand_as(x))

            log_probs_BK = total_BKV.flatten(1).gather(1, chosen_BK)
            now_T = steps_T == t
            found_BKT = torch.where(now_T, words_BK[:, :, None], follow(found_BKT))
            chosen_log_probs_BK = next_BKV.flatten(1).gather(1, chosen_BK)
            each_BKT = torch.where(now_T, chosen_log_probs_BK[:, :, None], follow(each_BKT))
            maps_BKTP = torch.where(now_T[:, None], follow(where_BKP)[:, :, None], follow(maps_BKTP))
            done_BK = follow(done_BK) | (words_BK == END)
            return (
                t + 1,
                log_probs_BK,
                follow(lengths_BK),
                words_BK,
                done_BK,
                found_BKT,
                each_BKT,
                maps_BKTP,
                follow(state_BKS),
            )

        t = torch.zeros((), dtype=torch.long, device=grid_BPC.device)
        carried = (t, log_probs_BK, lengths_BK, words_BK, done_BK, found_BKT, each_BKT, maps_BKTP, state_BKS)
        _, log_probs_BK, lengths_BK, _, _, found_BKT, each_BKT, maps_BKTP, _ = _loop()(more, extend, carried)
        return Found(found_BKT, each_BKT, log_probs_BK, rank(log_probs_BK, lengths_BK), maps_BKTP)


def inputs(beam_size: int, max_words: int, length_power: float = 0.0, wanted: int = 1) -> tuple[Tensor, ...]:
    """What forward takes after the grid."""
    first_K = torch.full((beam_size,), NEVER)
    first_K[0] = 0.0
    return first_K, torch.arange(max_words), torch.tensor(float(length_power)), torch.tensor(wanted)


def _loop() -> Callable[..., tuple[Tensor, ...]]:
    """torch's own loop where it is being exported; a plain one in eager mode, where torch's would compile first."""
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop
    return _eager_loop


def _eager_loop(
    more: Callable[..., Tensor], body: Callable[..., tuple[Tensor, ...]], carried: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    while bool(more(*carried)):
        carried = body(*carried)
    return carried
