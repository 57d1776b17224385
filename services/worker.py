"""Runs the model for the server: who is let in, on which thread, and how long each stage took.

Pictures are read on a few threads and captioned on one, which is where a batch will be gathered. onnxruntime and the
image decoders release the interpreter lock; the event loop only waits.
"""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from captioner import Caption, Captioner, SearchOptions
from services.errors import NotReadyError, QueueFullError

READERS = 2
"""Pictures decoded at the same time; each may hold a few hundred MB while it is decoded."""
SHORTEST_RETRY = 0.05
"""Seconds."""


class State(Enum):
    """What the server is doing with calls."""

    LOADING = "refused: the warm-up has not passed"
    SERVING = "answered"
    DRAINING = "refused: shutting down"


@dataclass(frozen=True)
class Outcome:
    """Captions of one picture, best first, and the seconds that each stage took."""

    captions: list[Caption]
    decode_seconds: float
    encode_seconds: float
    search_seconds: float

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return self.decode_seconds + self.encode_seconds + self.search_seconds


class Worker:
    """A captioner, the threads that it runs on, and the rule of admission."""

    def __init__(self, captioner: Captioner, max_queue: int):
        if max_queue < 1:
            raise ValueError(f"max_queue must be at least 1, got {max_queue}")
        self.captioner = captioner
        self.max_queue = max_queue
        self.state = State.LOADING
        self._admitted = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds = 0.0  # of a picture, a running mean
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._model = ThreadPoolExecutor(1, "model")

    async def warm_up(self) -> None:
        """Caption a grey picture; from then on calls are answered. RuntimeError if the model returns nonsense."""
        size = self.captioner.bundle.model.preprocessing
        grey_HW3 = np.full((size.height, size.width, 3), 128, np.uint8)
        outcome = await self._run(grey_HW3, self.captioner.bundle.search)
        if not outcome.captions or not math.isfinite(outcome.captions[0].score):
            raise RuntimeError("the warm-up found no caption for a grey picture")
        self._seconds = outcome.seconds
        if self.state is State.LOADING:
            self.state = State.SERVING

    async def caption(self, image: bytes, options: SearchOptions) -> Outcome:
        """Caption a picture, or refuse it at once. When cancelled, work that has not begun is not begun."""
        if self.state is not State.SERVING:
            raise NotReadyError(self.state.name)
        if self._admitted >= self.max_queue:
            wait = max(SHORTEST_RETRY, self._admitted * self._seconds)
            raise QueueFullError(f"{self._admitted} pictures are waiting, the limit is {self.max_queue}", wait)
        self._admitted += 1
        self._idle.clear()
        try:
            outcome = await self._run(image, options)
            self._seconds += 0.1 * (outcome.seconds - self._seconds)
            return outcome
        finally:
            self._admitted -= 1
            if self._admitted == 0:
                self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Refuse new pictures and wait for those that were let in; False if they took longer."""
        self.state = State.DRAINING
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Drop what waits; what is running ends by itself."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._model.shutdown(wait=False, cancel_futures=True)

    async def _run(self, photo: bytes | NDArray[np.uint8], options: SearchOptions) -> Outcome:
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()
        try:
            pixels_HW3, seconds = await loop.run_in_executor(self._readers, self._read, photo)
            return await loop.run_in_executor(self._model, self._infer, pixels_HW3, options, seconds, abandoned)
        finally:
            abandoned.set()

    def _read(self, photo: bytes | NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
        begin = perf_counter()
        return self.captioner.pixels(photo), perf_counter() - begin

    def _infer(
        self, pixels_HW3: NDArray[np.uint8], options: SearchOptions, decode: float, abandoned: threading.Event
    ) -> Outcome:
        begin = perf_counter()
        grid_BPC = self.captioner.encode(pixels_HW3[None])
        encoded = perf_counter()
        if abandoned.is_set():
            raise CancelledError
        [captions] = self.captioner.search(grid_BPC, options)
        return Outcome(captions, decode, encoded - begin, perf_counter() - encoded)
