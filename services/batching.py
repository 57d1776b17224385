"""Which calls share a run of the model: no threads here and no clock, so that it can be followed on paper.

Calls wait as jobs: a picture to encode, a grid to search captions for, a grid and a question to answer. Jobs of one
kind can share a run: all pictures, searches with equal options, questions with equal candidates. The rule:

1. The oldest job goes first, with the oldest of its kind beside it, up to max_batch.
2. But a search or an answer whose run would not be full lets the pictures be encoded first whose calls would join it.

Rule 2 costs the oldest job at most max_batch - 1 runs of the encoder, mostly one, and fills the runs where it pays: on
two cores `python -m services.batch_times` says of a MobileNetV2 with soft attention (int8, k = 7)

    batch       1     2     4     8    16    32
    encode   12.3  11.5  13.0  10.9  11.8  12.3   ms a picture
    search   27.1  17.8  17.0  15.4  17.5  17.2   ms a picture

so a fuller search saves up to 40 %, nothing is gained beyond 8, and a batch of 8 is the default. With these costs,
Poisson arrivals at 30 a second and 8 different options, a simulation gives a median latency of 234 ms with rule 2 and
of 855 ms with rule 1 alone; under overload, where 64 wait, 37.5 captions a second and 29.7. With equal options the two
are alike, and so is encoding always first, which has no bound. Nobody waits while the model is idle (wait_ms 0).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner import Captioner, SearchOptions
from captioner.engine import Stop
from captioner.query import Query
from services.observer import Stage

Task = SearchOptions | Query
"""What a call asks about its picture."""
Kind = tuple[Stage, Hashable]
"""The stage, and what the jobs of one run have in common."""
PICTURES: Kind = ("encode", None)
REMEMBERED = 16
"""Runs of a stage that an estimate is made from."""


@dataclass(eq=False)
class Call:
    """One caller who waits."""

    task: Task
    arrived: float
    """time.monotonic() seconds, as all times here."""
    deadline: float | None
    image: bytes | None
    """None once it is read, or not wanted any more."""
    settled: asyncio.Future[Any]
    """Gets what became of the call, a result or an exception."""
    job: Job | None = None
    """What it waits for now; None before its image is read, and at the end."""
    gone: bool = False
    """Whether it was answered, or has given up."""
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0


@dataclass(eq=False)
class Job:
    """One row of a run, and the calls that wait for it: those of one picture that ask the same."""

    task: Task | None
    """None to encode the picture."""
    key: bytes
    """Of the picture: photo_key."""
    data: NDArray[Any] | None
    """Pixels [H, W, 3] to encode (None until they are read), or a grid [P, C]."""
    calls: list[Call]
    """A job without calls is wanted by nobody."""
    arrived: float
    """When its first call came."""
    due: float = 0.0
    """When it may run in a batch that is not full."""
    alone: bool = False
    """Whether it may not share a run, because one that it shared has failed."""
    decode_seconds: float = 0.0

    @property
    def kind(self) -> Kind:
        """What it must have in common with another to share a run."""
        return PICTURES if self.task is None else kind_of(self.task)


def kind_of(task: Task) -> Kind:
    """The kind of the job that answers a call."""
    return ("answer", task.candidates) if isinstance(task, Query) else ("search", task)


class Waiting:
    """The jobs that are ready to run."""

    def __init__(self, max_batch: int):
        self.max_batch = max_batch
        self.jobs: list[Job] = []

    def next_batch(self, now: float) -> list[Job]:
        """The jobs to run together next, which stay here; none if there are none, or they may wait for others."""
        kinds: dict[Hashable, list[Job]] = {}
        for job in sorted(self.jobs, key=lambda job: job.arrived):
            kinds.setdefault(id(job) if job.alone else job.kind, []).append(job)
        for jobs in kinds.values():  # the one with the oldest job first
            batch = jobs[: self.max_batch]
            full = batch[0].alone or len(batch) == self.max_batch
            if not full and (first := self._joining(batch[0].kind, kinds.get(PICTURES, []))):
                return first
            if full or min(job.due for job in batch) <= now:
                return batch
        return []

    def _joining(self, kind: Kind, pictures: list[Job]) -> list[Job]:
        """A batch of pictures with those first whose calls would join that kind; none if no call would."""
        joins = {id(job) for job in pictures if any(kind_of(call.task) == kind for call in job.calls)}
        return sorted(pictures, key=lambda job: id(job) not in joins)[: self.max_batch] if joins else []


def run(captioner: Captioner, batch: Sequence[Job], stop: Stop) -> list[Any]:
    """What the model finds for each job of a batch, in one run: a grid [P, C], captions or an Answered."""
    task, data = batch[0].task, [job.data for job in batch if job.data is not None]
    if task is None:
        return list(captioner.encode(np.stack(data), stop=stop))
    if isinstance(task, SearchOptions):
        return list(captioner.search(np.stack(data), task, stop=stop))
    grids = {id(grid_PC): grid_PC for grid_PC in data}  # questions about one picture share its grid
    row = {name: n for n, name in enumerate(grids)}
    queries = [job.task for job in batch if isinstance(job.task, Query)]
    pictures = [row[id(grid_PC)] for grid_PC in data]
    return list(captioner.answer_batch(np.stack(list(grids.values())), queries, pictures, stop=stop))


@dataclass
class Recent:
    """How long the last runs took, by stage: (seconds, images) of each."""

    runs: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def add(self, stage: str, seconds: float, images: int) -> None:
        """Count a run."""
        self.runs.setdefault(stage, deque(maxlen=REMEMBERED)).append((seconds, images))

    def mean(self, stage: str) -> float:
        """Seconds for each image; 0 if nothing is known."""
        runs = self.runs.get(stage, ())
        return sum(seconds for seconds, _ in runs) / max(1, sum(images for _, images in runs))

    def slow(self, stage: str) -> float:
        """The upper quartile of the runs' seconds for each image, so that one stall does not count; 0 if unknown."""
        each = [seconds / images for seconds, images in self.runs.get(stage, ())]
        return quantiles(each, n=4, method="inclusive")[2] if len(each) > 1 else sum(each)
