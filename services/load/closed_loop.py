"""A closed loop: so many callers, each of whom calls again at once. It says how much can be done, not how fast."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic


async def saturated(one: Callable[[], Awaitable[bool]], callers: int, seconds: float, warm: float) -> float:
    """Answers a second while so many callers are at work. one: a call; whether it was answered.

    Batches are answered together, so the clock starts and stops with an answer: the first after the warm-up, and the
    first after the end.
    """
    begin = monotonic() + warm
    end = begin + seconds
    first = last = 0.0
    answers = 0

    async def caller() -> None:
        nonlocal first, last, answers
        while not last:
            if not await one():
                await asyncio.sleep(0.01)  # whatever refuses at once is not to be asked in a tight loop
                if monotonic() > end + warm + 1.0:
                    return
                continue
            now = monotonic()
            if not first:
                first = now if now >= begin else 0.0
            elif not last:
                answers += 1
                last = now if now >= end else 0.0

    await asyncio.gather(*(caller() for _ in range(callers)))
    return answers / (last - first) if last else 0.0
