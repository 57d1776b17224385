"""Pictures and their captions as batches; the order comes from (seed, epoch) alone.

Shapes: B pictures, K captions of a picture, T words, P grid cells, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioner.model.network import Network
from captioner.tokens import tokenize
from captioner.vocabulary import END, PAD, START, Vocabulary
from eval.coco import CaptionSplit, CocoPicture
from eval.questions import QuestionSplit
from training.features import PictureCache, grids_of, pixels_of


@dataclass(frozen=True)
class Batch:
    """Pictures with all their captions: pictures by their longest caption, longest first, their captions likewise."""

    pictures: Sequence[int]
    """Positions in the set of pictures."""
    images_B: Tensor
    """Grids [B, P, C] of a frozen encoder, or uint8 pixels [B, H, W, 3] for one that trains."""
    words_BKT: Tensor
    """<start>, words, <end>, padding."""
    lengths_BK: Tensor
    """Words to predict, <end> counted; 0 where a picture has fewer captions than others. Always on the CPU."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        images_B, words_BKT = (x.to(device, non_blocking=True) for x in (self.images_B, self.words_BKT))
        return Batch(self.pictures, images_B, words_BKT, self.lengths_BK)


@dataclass(frozen=True)
class PictureSet:
    """Pictures of a split with their rows in the caches, one cache a view; unreadable ones are left out."""

    pictures: Sequence[CocoPicture]
    caches: Sequence[PictureCache]

    @property
    def usable(self) -> list[int]:
        """Positions of the pictures that could be read, in file order."""
        skipped = set().union(*(cache.skipped for cache in self.caches))
        return [n for n in range(len(self.pictures)) if n not in skipped]

    def images(self, positions: Sequence[int], views: Sequence[int]) -> Tensor:
        """Rows of the caches at the given positions, in the encoder's or decoder's number format."""
        rows = np.stack([self.caches[view].rows[n] for n, view in zip(positions, views, strict=True)])
        tensor = torch.from_numpy(rows)
        return tensor if tensor.dtype == torch.uint8 else tensor.float()


def picture_set(
    pictures: Sequence[CocoPicture], network: Network, trains: bool, views: int, folder: Path
) -> PictureSet:
    """Make or find the caches of pictures: pixels if the encoder trains, grids if it is frozen."""
    encoder, preprocessing = network.encoder, network.config.preprocessing
    if trains:
        caches = [pixels_of(preprocessing, pictures, view, folder) for view in range(views)]
    else:
        caches = [grids_of(encoder, preprocessing, pictures, view, folder) for view in range(views)]
    return PictureSet(pictures, caches)


def pictures_of(captions: CaptionSplit | None, questions: Sequence[QuestionSplit]) -> list[CocoPicture]:
    """The pictures that have a caption, then those that only have questions; the same file is there once."""
    found: dict[Path, CocoPicture] = {}
    if captions is not None:
        found = {picture.path: picture for picture in captions.pictures if picture.captions}
        if not found:
            raise ValueError(f"{captions.annotations}: no picture has a caption")
    for split in questions:
        for picture in split.pictures:
            found.setdefault(picture.path, picture)
    return list(found.values())


class TrainingBatches:
    """The batches of one process out of `processes`."""

    def __init__(
        self, images: PictureSet, vocabulary: Vocabulary, batch_pictures: int, longest: int, seed: int,
        process: int = 0, processes: int = 1,
    ):  # fmt: skip
        self.images = images
        self.usable = [n for n in images.usable if images.pictures[n].captions]
        self.seed, self.process, self.processes = seed, process, processes
        if batch_pictures < processes:
            raise ValueError(f"batch_pictures must be at least the {processes} processes, got {batch_pictures}")
        self.words = [
            sorted(
                ([START, *vocabulary.encode(tokenize(text)[:longest]), END] for text in picture.captions),
                key=lambda words: -len(words),
            )
            for picture in images.pictures
        ]
        if len(self.usable) < processes:
            raise ValueError(f"the {processes} processes need a picture each, got {len(self.usable)}")
        self.batch_pictures = min(batch_pictures, len(self.usable))

    def __len__(self) -> int:
        return len(self.usable) // self.batch_pictures

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Batches `first` and later of an epoch; the rest of pictures that fill no batch wait for another order."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(self.usable)
        views = random.integers(len(self.images.caches), size=len(order))
        for n in range(first, len(self)):
            part = slice(n * self.batch_pictures + self.process, (n + 1) * self.batch_pictures, self.processes)
            yield self._batch(order[part].tolist(), views[part].tolist())

    def _batch(self, positions: list[int], views: list[int]) -> Batch:
        drawn = sorted(zip(positions, views, strict=True), key=lambda n_view: -len(self.words[n_view[0]][0]))
        captions = [self.words[n] for n, _ in drawn]
        lengths_BK = torch.zeros(len(drawn), max(map(len, captions)), dtype=torch.long)
        words_BKT = torch.full((*lengths_BK.shape, len(captions[0][0])), PAD)
        for b, own in enumerate(captions):
            for k, words in enumerate(own):
                lengths_BK[b, k] = len(words) - 1
                words_BKT[b, k, : len(words)] = torch.tensor(words)
        images_B = self.images.images([n for n, _ in drawn], [view for _, view in drawn])
        return Batch([n for n, _ in drawn], images_B, words_BKT, lengths_BK)
