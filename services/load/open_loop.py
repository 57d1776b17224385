"""An open loop: calls go out when the schedule says, whatever became of those before (no coordinated omission).

A call's latency counts from its scheduled time, so that it holds what a caller would have waited although the loader,
or the server's connection, was not able to take the call then. The same goes for its deadline.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, process_time
from typing import Protocol

from services.load.records import NOT_SENT, UNFINISHED, Ended, Records
from services.load.schedule import KINDS, Kind, Schedule

LEAD_SECONDS = 0.1
"""Before the first call."""


class Caller(Protocol):
    """Makes calls: services.load.callers.Callers."""

    def own_seconds(self, kind: Kind) -> float:
        """How long a caller takes by itself until it has sent everything; its latency counts from then."""

    async def call(self, kind: Kind, until: float) -> Ended:
        """Make a call; until: time.monotonic() of its deadline."""


@dataclass(frozen=True)
class Ran:
    """A run, or as much of it as there was time for."""

    records: Records
    seconds: float
    """Between the end of the warm-up and the last call's turn, or the interruption."""
    loader_cpu: float
    """Cores that the loader used."""
    interrupted: bool


def say(text: str) -> None:
    """To the one who waits for the run."""
    print(text, file=sys.stderr, flush=True)


async def run(
    schedule: Schedule,
    seconds: float,
    caller: Caller,
    deadline: float,
    most: int = 1000,
    progress: Callable[[str], None] = say,
) -> Ran:
    """Make the calls of a schedule that lasts so many seconds after its warm-up; Ctrl-C ends it early.

    deadline: seconds from a call's scheduled time. most: calls in flight; a call beyond is not sent, and counted so.
    """
    records, running = Records(len(schedule.due_N)), set[asyncio.Task[None]]()
    zero = monotonic() + LEAD_SECONDS - float(schedule.due_N[0])
    seen: Counter[str] = Counter()

    async def one(kind: Kind, due: float) -> None:
        own = caller.own_seconds(kind)
        sent = monotonic() + own
        try:
            ended = await caller.call(kind, due + own + deadline)
        except asyncio.CancelledError:
            ended = Ended(UNFINISHED)
        seen[ended.code] += 1
        records.add(kind, due + own - zero, sent - zero, monotonic() - zero, ended)

    async def pace() -> None:
        for offset, number in zip(schedule.due_N.tolist(), schedule.kinds_N.tolist(), strict=True):
            due = zero + offset
            await asyncio.sleep(max(0.0, due - monotonic()))
            if len(running) >= most:
                seen[NOT_SENT] += 1
                now = monotonic() - zero
                records.add(KINDS[number], offset, now, now, Ended(NOT_SENT, "TOO_MANY_IN_FLIGHT"))
                continue
            task = asyncio.create_task(one(KINDS[number], due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(max(0.0, zero + seconds - monotonic()))
        if running:
            await asyncio.wait(running, timeout=deadline + max(map(caller.own_seconds, KINDS)) + 1.0)

    async def tell() -> None:
        while True:
            await asyncio.sleep(1.0)
            counts = ", ".join(f"{code} {count}" for code, count in seen.most_common())
            progress(f"{monotonic() - zero:6.1f} s: {len(running)} in flight, {counts or 'none ended'}")

    cpu, begin = process_time(), monotonic()
    pacing, telling = asyncio.create_task(pace()), asyncio.create_task(tell())
    with suppress(NotImplementedError, RuntimeError):  # not in the main thread, as in some tests
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, pacing.cancel)
    try:
        await asyncio.wait([pacing])
    finally:
        with suppress(NotImplementedError, RuntimeError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        end = monotonic()
        for task in (pacing, telling, *running):
            task.cancel()
        await asyncio.gather(pacing, telling, *running, return_exceptions=True)
    used = (process_time() - cpu) / (end - begin)
    return Ran(records, min(seconds, max(0.0, end - zero)), used, pacing.cancelled())
