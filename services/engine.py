"""One loaded model behind two coroutines. services.pipeline runs it in batches, on threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from captioner import Captioner, SearchOptions
from captioner.query import Query
from services.batching import Call, Task
from services.observer import Observer
from services.pipeline import BusyError, DeadlineError, Outcome, Pipeline, ended_by
from services.settings import EngineSettings
from services.warm_up import WarmUpError, warm_up

__all__ = ["BusyError", "DeadlineError", "Engine", "Outcome", "WarmUpError"]


class Engine:
    """Belongs to one event loop. How many calls may wait is not decided here: see services.admission."""

    def __init__(self, captioner: Captioner, settings: EngineSettings, observer: Observer | None = None):
        self.captioner = captioner
        self.settings = settings
        self._observer = observer or Observer()
        self._pipeline = Pipeline(captioner, settings, self._observer)
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def warm_up(self) -> None:
        """Run each graph on every size of batch up to max_batch; raises WarmUpError."""
        await asyncio.to_thread(warm_up, self.captioner, self.settings.max_batch, self._pipeline.took)

    async def caption(self, image: bytes, options: SearchOptions, deadline: float | None = None) -> Outcome:
        """Captions of the picture in a file's bytes. deadline: time.monotonic() seconds.

        Raises BadImage, or DeadlineError as soon as the deadline has passed or cannot be met: BusyError at once, if it
        is those before it that leave it no time.
        """
        return await self._answered(image, options, deadline)

    async def answer(self, image: bytes, query: Query, deadline: float | None = None) -> Outcome:
        """Answers to a question about a picture; raises as caption() does, and BadQuestion."""
        self.captioner.check_query(query)
        return await self._answered(image, query, deadline)

    @property
    def calls(self) -> int:
        """In flight."""
        return self._pipeline.calls

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the engine from closing until the block ends; RuntimeError if it has closed."""
        if self._closed:
            raise RuntimeError(f"the engine of model {self.captioner.bundle.name} is closed")
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._idle.set()

    async def close(self) -> None:
        """Wait for the calls in flight, then end the threads."""
        while self._users:
            await self._idle.wait()
        self._closed = True
        await asyncio.to_thread(self._pipeline.close)

    async def _answered(self, image: bytes, task: Task, deadline: float | None) -> Outcome:
        call = Call(task, monotonic(), deadline, image, asyncio.get_running_loop().create_future())
        with self.held():
            try:
                self._pipeline.enter(call)
                await asyncio.wait([call.settled], timeout=None if deadline is None else deadline - monotonic())
                if not call.settled.done() or (deadline is not None and monotonic() > deadline):
                    raise DeadlineError("the deadline has passed")
                found = call.settled.result()
                if isinstance(found, Exception):
                    raise found
            except BusyError:
                raise  # it was never let in
            except (asyncio.CancelledError, DeadlineError) as error:
                late = isinstance(error, DeadlineError) or ended_by(deadline)
                self._observer.dropped("deadline" if late else "cancelled")
                raise
            finally:
                self._pipeline.leave(call)
        assert isinstance(found, Outcome)
        self._observer.queue(self.captioner.bundle.name, found.queue_seconds)
        return found
