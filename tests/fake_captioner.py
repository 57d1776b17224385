"""A captioner without a network: a picture is a number, and the caption says which."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from captioner import BadImage, Caption, SearchOptions
from captioner.captioner import Photo
from captioner.engine import Stop, Stopped
from captioner.memory import GridMemory
from captioner.query import Query
from captioner.results import Answer, Answered


class PoisonError(RuntimeError):
    """What a run raises that has a poisonous picture in it."""


def picture(number: int) -> bytes:
    """The file of a picture."""
    return b"picture %d" % number


def caption_of(number: int, options: SearchOptions) -> str:
    """What the model says about it."""
    return f"{number} with {options.beam_size}"


def answer_of(number: int, query: Query) -> str:
    """What the model answers."""
    return f"{number}: {query.text} {'/'.join(query.candidates)}"


class FakeCaptioner:
    """Each run takes `seconds`; `gate` holds all runs; `runs` lists what ran together, as (stage, numbers)."""

    def __init__(self, seconds: float = 0.0, memory_bytes: int = 0):
        self.seconds = seconds
        self.memory = GridMemory(memory_bytes)
        self.bundle = SimpleNamespace(name="fake")
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.poison: dict[str, set[int]] = {"encode": set(), "search": set(), "answer": set()}
        self.only_alone: set[int] = set()
        """Numbers whose runs fail if they are shared."""
        self.runs: list[tuple[str, list[int]]] = []
        self.decoded: list[int] = []
        self.stopped: list[list[int]] = []

    def pixels(self, photo: Photo) -> NDArray[np.uint8]:
        assert isinstance(photo, bytes)
        if not photo.startswith(b"picture"):
            raise BadImage("CORRUPT_IMAGE", "the picture cannot be read")
        number = int(photo.split()[1])
        self.decoded.append(number)
        return np.full((1, 1, 3), number, np.uint8)

    def encode(self, pixels_BHW3: NDArray[np.uint8], stop: Stop | None = None) -> NDArray[np.float32]:
        self._run("encode", pixels_BHW3[:, 0, 0, 0].tolist(), stop)
        return pixels_BHW3[:, :, 0, :1].astype(np.float32)

    def search(
        self, grid_BPC: NDArray[np.float32], options: SearchOptions, stop: Stop | None = None
    ) -> list[list[Caption]]:
        numbers = [int(n) for n in grid_BPC[:, 0, 0]]
        self._run("search", numbers, stop)
        return [[Caption(caption_of(number, options), -1.0, -1.0, ())] for number in numbers]

    def answer_batch(
        self, grid_BPC: NDArray[np.float32], queries: Sequence[Query], pictures: Sequence[int], stop: Stop | None = None
    ) -> list[Answered]:
        assert len({query.candidates for query in queries}) == 1
        numbers = [int(grid_BPC[row, 0, 0]) for row in pictures]
        self._run("answer", numbers, stop)
        each = zip(numbers, queries, strict=True)
        return [Answered((Answer(answer_of(number, query), 1.0),), None) for number, query in each]

    def check_query(self, query: Query) -> None:
        pass

    def _run(self, stage: str, numbers: list[int], stop: Stop | None) -> None:
        self.runs.append((stage, numbers))
        self.entered.set()
        end = time.monotonic() + self.seconds
        while not self.gate.is_set() or time.monotonic() < end:
            if stop is not None and stop.is_set:
                self.stopped.append(numbers)
                raise Stopped("the run was stopped")
            time.sleep(0.0005)
        if self.poison[stage] & set(numbers) or (len(numbers) > 1 and self.only_alone & set(numbers)):
            raise PoisonError(f"{stage} {numbers}")

    def of(self, stage: str) -> list[list[int]]:
        """The numbers of each run of a stage."""
        return [numbers for ran, numbers in self.runs if ran == stage]
