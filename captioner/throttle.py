"""A client that holds back calls which a full server would refuse: each refusal costs both a millisecond of CPU.

Of r calls that were wanted of late the server took a. The next one is not sent with probability

    max(0, (r - K a - FREE) / (r + 1))

so that about K calls are sent for each that is taken, however many are wanted (Beyer et al., 2016, "Site Reliability
Engineering", chapter 21, "client-side throttling"). FREE is ours: some calls are sent in any case, so that a caller
with few is never held back, and room is noticed soon when there is some again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Lock
from time import monotonic

from captioner.config import at_least

HALF_LIFE = 2.0
"""Seconds after which a call counts half."""
FREE = 10.0
"""Calls within the last few seconds."""
FULL = "QUEUE_FULL"
"""The reason of a server that has no room."""
THROTTLED = "THROTTLED"
"""The reason of a call that was not sent."""


class Throttle:
    """The calls of one client; any number of threads may share it."""

    def __init__(
        self, factor: float | None, clock: Callable[[], float] = monotonic, draw: Callable[[], float] = random.random
    ):
        """factor: K, at least 1; None sends every call. draw: a number in [0, 1)."""
        if factor is not None:
            at_least("throttle", factor, 1.0)
        self.factor, self._clock, self._draw = factor, clock, draw
        self._wanted = self._taken = 0.0
        self._counted = clock()
        self._lock = Lock()

    def refuses(self) -> bool:
        """Count a call that is wanted; whether it is better not sent."""
        if self.factor is None:
            return False
        with self._lock:
            self._fade()
            refused = self._draw() < (self._wanted - self.factor * self._taken - FREE) / (self._wanted + 1)
            self._wanted += 1
            return refused

    def ended(self, reason: str) -> None:
        """Count a call that was sent, by the reason it failed for ("" if it did not): all but FULL were taken."""
        if self.factor is None or reason == FULL:
            return
        with self._lock:
            self._fade()
            self._taken += 1

    def _fade(self) -> None:
        now = self._clock()
        left = 0.5 ** ((now - self._counted) / HALF_LIFE)
        self._wanted, self._taken, self._counted = self._wanted * left, self._taken * left, now
