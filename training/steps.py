"""What a step of training learns from: a batch of captions, of questions, or of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Protocol, TypeVar

import torch

from training.data import Batch, TrainingBatches
from training.questions import QuestionBatch, QuestionBatches

T = TypeVar("T", covariant=True)


@dataclass(frozen=True)
class Step:
    """The batches of one step."""

    captions: Batch | None = None
    questions: QuestionBatch | None = None

    def to(self, device: torch.device) -> Step:
        """The same on a device."""
        captions = None if self.captions is None else self.captions.to(device)
        return Step(captions, None if self.questions is None else self.questions.to(device))


class Steps:
    """Captions and questions side by side; an epoch is one of the longer, the shorter begins again as it ends."""

    def __init__(self, captions: TrainingBatches | None, questions: QuestionBatches | None):
        self.captions, self.questions = captions, questions

    def __len__(self) -> int:
        return max(len(batches) for batches in (self.captions, self.questions) if batches is not None)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Step]:
        """Steps `first` and later of an epoch."""
        start, length = epoch * len(self) + first, len(self) - first
        captions = None if self.captions is None else _from(self.captions, start)
        questions = None if self.questions is None else _from(self.questions, start)
        for _ in range(length):
            yield Step(captions and next(captions), questions and next(questions))


class _Batches(Protocol[T]):
    def __len__(self) -> int: ...

    def epoch(self, epoch: int, first: int = 0) -> Iterator[T]: ...


def _from(batches: _Batches[T], start: int) -> Iterator[T]:
    """Batch number `start`, counted through all epochs, and all that follow."""
    epoch, first = divmod(start, len(batches))
    for later in count(epoch):
        yield from batches.epoch(later, first)
        first = 0
