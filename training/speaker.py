"""A captioner that reads the student's grid: does it say of a picture what it says of the teacher's?

The class scores teach an encoder what ImageNet names, breeds of dogs above all; a captioner trained on the teacher's
grid, frozen, teaches it what sentences need. It is the teacher's classifier once more (Chen et al., 2022), for words:

    loss = mean over words of KL(p(w_t | w_1 .. w_{t-1}, teacher's grid) || p(w_t | w_1 .. w_{t-1}, student's grid))

on sentences that it draws itself from what the teacher sees (Kim and Rush, 2016, "Sequence-level knowledge
distillation"), so views need no caption, and a crop is spoken of as the crop that it is.

Shapes: B pictures, h x w = P grid cells, C channels, K sentences, T words, M words of all sentences, V words known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from captioner.model.runs import network_of_run
from training.reward import longest_first, sample

SENTENCES = 1
"""Drawn of each picture."""


@dataclass(frozen=True)
class Said:
    """Sentences about the teacher's grids, and how likely each of their words was."""

    order_B: Tensor
    words_BKT: Tensor
    lengths_BK: Tensor
    log_probs_MV: Tensor


class Speaker:
    """The captioner of a training run whose encoder was the teacher."""

    def __init__(self, run: Path, teacher: str, device: torch.device):
        network, _, _ = network_of_run(run)
        config = network.config
        if config.encoder != teacher or config.encoder_stage is not None or not config.captions:
            raise ValueError(f"{run} must be a run that captions on the whole encoder {teacher}, got {config.encoder}")
        if config.positions:
            raise ValueError(f"{run} learnt positions of cells: a student's grid may have fewer")
        self.decoder = network.decoder.to(device).requires_grad_(False)
        self.device = device

    @torch.no_grad()
    def say(self, map_BChw: Tensor, seed: int) -> Said:
        """Sentences drawn from the teacher's maps, the same whenever they are asked for."""
        grid_BPC = map_BChw.to(self.device).flatten(2).transpose(1, 2)
        generator = torch.Generator(self.device).manual_seed(seed)
        drawn_BKT = sample(self.decoder, grid_BPC, SENTENCES, generator)
        words_BKT, lengths_BK, order_B, _ = longest_first(drawn_BKT)
        lengths_BK = lengths_BK.cpu()
        scores_MV = self.decoder.teach(grid_BPC[order_B], words_BKT, lengths_BK).scores_MV
        return Said(order_B, words_BKT, lengths_BK, scores_MV.log_softmax(1))

    def loss(self, map_BChw: Tensor, said: Said) -> Tensor:
        """The mean KL of a word, a scalar, of the student's maps of the same views."""
        grid_BPC = map_BChw.flatten(2).transpose(1, 2)[said.order_B]
        log_probs_MV = self.decoder.teach(grid_BPC, said.words_BKT, said.lengths_BK).scores_MV.log_softmax(1)
        return functional.kl_div(log_probs_MV, said.log_probs_MV, reduction="batchmean", log_target=True)
