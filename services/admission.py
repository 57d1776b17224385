"""Who is let in: one rule for unary calls and streams, counted in images over all models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from time import monotonic

from captioner.config import at_least
from services.errors import NotReadyError, QueueFullError
from services.pipeline import SHORTEST_RETRY

LONGEST_RETRY = 10.0
"""Seconds."""


class State(Enum):
    """What the server does with calls."""

    LOADING = "refused: the warm-up has not passed"
    SERVING = "answered"
    DRAINING = "refused: shutting down"


class Admission:
    """Counts the images that were let in and are not done. Belongs to one event loop: not safe from other threads."""

    def __init__(self, max_queue: int):
        at_least("max_queue", max_queue, 1)
        self.max_queue = max_queue
        self.state = State.LOADING
        self.admitted = 0
        """Images let in now."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._gap = 0.0  # seconds between two images that leave answered while others wait, a running mean
        self._last = 0.0  # when an image left answered, or the first one came

    def open(self) -> None:
        """Let images in, unless draining has begun."""
        if self.state is State.LOADING:
            self.state = State.SERVING

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Let one image in until the block ends. Raises NotReadyError, or QueueFullError at once: nobody waits here."""
        if self.state is not State.SERVING:
            raise NotReadyError(self.state.name)
        if self.admitted >= self.max_queue:
            wait = min(LONGEST_RETRY, max(SHORTEST_RETRY, self.admitted * self._gap))
            raise QueueFullError(f"{self.admitted} pictures are waiting, the limit is {self.max_queue}", wait)
        if self.admitted == 0:
            self._idle.clear()
            self._last = monotonic()
        self.admitted += 1
        try:
            yield
            now = monotonic()
            self._gap += 0.1 * (now - self._last - self._gap)
            self._last = now
        finally:
            self.admitted -= 1
            if self.admitted == 0:
                self._idle.set()

    async def drained(self, seconds: float) -> bool:
        """Refuse new images and wait for those that were let in; False if they took longer."""
        self.state = State.DRAINING
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return self.admitted == 0
