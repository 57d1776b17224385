"""The threads of a model, and what lies between them.

A few threads read pictures and one runs the model, so that one batch runs while the next gathers. A call waits for a
Job of the encoder and then for one of the search or the answerer; services.batching says what runs next. Everything
changes hands under one lock, held for microseconds; the image decoders and the model run without it, and without the
interpreter's lock.

A call that is cancelled or late leaves its job at once. A job that no call waits for is forgotten, and a run that has
only such jobs is stopped. A run that fails fails its call; if several shared it, each is tried once more alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner import Caption, Captioner
from captioner.engine import Stop
from captioner.memory import photo_key
from captioner.query import Query
from captioner.results import Answered
from services.batching import Call, Job, Recent, Task, Waiting, kind_of, run
from services.observer import Observer, Stage
from services.priority import step_back
from services.settings import EngineSettings

log = logging.getLogger(__name__)

PATIENCE = 1.25
"""A call is let in only if its deadline leaves it so many times the time that it and those before it should take."""
SHORTEST_RETRY = 0.05
"""Seconds."""
AHEAD = 0.1
"""Seconds that a caller's clock for the deadline may be ahead of ours: it began before the call came."""


class DeadlineError(TimeoutError):
    """The deadline of a call has passed or cannot be met; its work was dropped."""


class BusyError(DeadlineError):
    """The calls before it leave a call no time: it was refused before any work. Worth repeating after retry_after s."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


def ended_by(deadline: float | None) -> bool:
    """Whether what cancelled a call just now was its deadline, of which the caller may know a little sooner."""
    return deadline is not None and monotonic() >= deadline - AHEAD


@dataclass(frozen=True)
class Outcome:
    """What became of a call, and the seconds that each of its stages took: of the whole run that it shared."""

    captions: list[Caption] | None
    """Best first; None for a question."""
    answered: Answered | None
    """None for captions."""
    decode_seconds: float
    """0 where the picture is remembered."""
    encode_seconds: float
    """0 where the picture is remembered."""
    search_seconds: float
    """Of the beam search, or of the answerer."""
    queue_seconds: float
    """Waiting for a turn, at all stages together."""


class Pipeline:
    """enter() a call, wait until it is settled, and always leave()."""

    def __init__(self, captioner: Captioner, settings: EngineSettings, observer: Observer):
        self.captioner = captioner
        self._wait = settings.wait_ms / 1000
        self._observer = observer
        self._name = captioner.bundle.name

        self._changed = threading.Condition()  # its lock guards what follows
        self._closed = False
        self._calls: set[Call] = set()
        self._pictures: dict[bytes, Job] = {}  # being read, waiting for the encoder, or in it
        self._waiting = Waiting(settings.max_batch)
        self._running: list[Job] = []
        self._stop: Stop | None = None  # of the run in progress
        self._recent = Recent()
        self._left = 0.0  # when calls were last answered, or the first of them came

        self._readers = ThreadPoolExecutor(settings.readers, "read", initializer=step_back)
        self._model = threading.Thread(target=self._run_batches, name="model", daemon=True)
        self._model.start()

    def enter(self, call: Call) -> None:
        """Begin to work on a call; DeadlineError if it is late, BusyError if those before it leave it no time."""
        with self._changed:
            self._check_deadline(call, PATIENCE * self._recent.mean("call") * (len(self._calls) + 1), enters=True)
            if not self._calls:
                self._left = call.arrived
            self._calls.add(call)
        self._readers.submit(self._read, call)

    def leave(self, call: Call) -> None:
        """Forget the call, and all that only it was waiting for."""
        with self._changed:
            self._drop(call)

    @property
    def calls(self) -> int:
        """In flight."""
        return len(self._calls)

    def took(self, stage: Stage, seconds: float, images: int) -> None:
        """A run took so long: what a deadline is measured against."""
        with self._changed:
            self._recent.add(stage, seconds, images)

    def close(self) -> None:
        """End the threads, once no call is in flight; takes as long as what still runs for nobody."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._model.join()

    # With the lock

    def _drop(self, call: Call) -> None:
        """As leave(); does nothing the second time."""
        call.gone, call.image = True, None
        self._calls.discard(call)
        job, call.job = call.job, None
        if job is None:
            return
        job.calls.remove(call)
        if job.calls:
            return
        if self._pictures.get(job.key) is job:
            del self._pictures[job.key]  # a new call for the picture begins anew
        if job in self._waiting.jobs:
            self._waiting.jobs.remove(job)
        if self._stop is not None and not any(running.calls for running in self._running):
            self._stop.set()

    def _settle(self, call: Call, found: Outcome | Exception) -> None:
        """Hand the call what became of it, unless it has left; it leaves by that."""
        if call.gone:
            return
        self._drop(call)
        try:
            call.settled.get_loop().call_soon_threadsafe(_set, call.settled, found)
        except RuntimeError:
            log.warning("model %s: the event loop of a call has ended before its answer", self._name)

    def _fail(self, calls: Sequence[Call], error: Exception) -> None:
        for call in list(calls):
            self._settle(call, error)

    def _check_deadline(self, call: Call, seconds: float, enters: bool = False) -> None:
        """DeadlineError if the call cannot be answered in time, should that take so many seconds from now.

        enters: nothing was done for it yet, so that it is a BusyError.
        """
        if call.deadline is None:
            return
        left = call.deadline - monotonic()
        if left <= 0:
            raise DeadlineError("the deadline has passed")
        others = len(self._calls) - (call in self._calls)
        if seconds > left and others:  # with no others it is tried: an estimate that is wrong would stay so for ever
            message = f"the deadline is in {left:.3f} s, and an answer takes about {seconds:.3f} s"
            raise BusyError(message, max(SHORTEST_RETRY, seconds - left)) if enters else DeadlineError(message)

    def _ready(self, job: Job) -> None:
        """The job waits for the model, and its calls for the job."""
        for call in job.calls:
            call.job = job
        self._waiting.jobs.append(job)
        self._changed.notify()

    def _seen(self, key: bytes, grid_PC: NDArray[np.float32], calls: Sequence[Call], due: float = 0.0) -> None:
        """The picture of the calls is encoded; those that ask the same share a job."""
        tasks: dict[Task, list[Call]] = {}
        for call in calls:
            tasks.setdefault(call.task, []).append(call)
        for task, same in tasks.items():
            self._ready(Job(task, key, grid_PC, same, min(call.arrived for call in same), due))

    def _due(self) -> float:
        """When a job that is ready now may run in a batch that is not full."""
        return monotonic() + self._wait

    def _next_batch(self) -> list[Job]:
        """What to run next, no longer waiting; calls that it cannot answer in time are dropped first."""
        while batch := self._waiting.next_batch(monotonic()):
            late = False
            for call in [call for job in batch for call in job.calls]:
                stages = {batch[0].kind[0], kind_of(call.task)[0]}
                try:
                    self._check_deadline(call, len(batch) * sum(map(self._recent.slow, stages)))
                except DeadlineError as error:
                    self._settle(call, error)
                    late = True
            if not late:
                self._waiting.jobs = [job for job in self._waiting.jobs if job not in batch]
                return batch
        return []

    # On the threads that read

    def _read(self, call: Call) -> None:
        """Bring a call to the model: with a grid that is remembered, another call's picture, or its own."""
        image, job, begin = call.image, None, monotonic()
        if image is None:
            return
        try:
            key = photo_key(image)
            if (job := self._look(call, key)) is not None:
                job.data = self.captioner.pixels(image)
                self._decoded(job, monotonic() - begin)
        except Exception as error:  # BadImage, mostly; whatever it is, nobody waits for ever
            with self._changed:
                self._fail([call] if job is None else job.calls, error)

    def _look(self, call: Call, key: bytes) -> Job | None:
        """The job whose picture is still to be read, or None: nobody wants it, or it is known."""
        with self._changed:
            if call.gone:
                return None
            call.image = None
            self._check_deadline(call, self._recent.slow("encode") + self._recent.slow(kind_of(call.task)[0]))
            if (job := self._pictures.get(key)) is not None:
                job.calls.append(call)
                call.job, call.decode_seconds = job, job.decode_seconds
            elif (grid_PC := self.captioner.memory.get(key)) is not None:
                self._seen(key, grid_PC, [call], self._due())
            else:
                call.job = new = self._pictures[key] = Job(None, key, None, [call], call.arrived)
                self._observer.memory(self._name, False)
                return new
        self._observer.memory(self._name, True)
        return None

    def _decoded(self, job: Job, seconds: float) -> None:
        self._observer.stage(self._name, "decode", seconds, 1)
        with self._changed:
            job.decode_seconds, job.due = seconds, self._due()
            for call in job.calls:
                call.decode_seconds = seconds
            if job.calls:
                self._ready(job)

    # On the thread of the model

    def _run_batches(self) -> None:
        step_back()
        while True:
            with self._changed:
                while not (batch := self._next_batch()):
                    if self._closed:
                        return
                    due = min((job.due for job in self._waiting.jobs), default=None)
                    self._changed.wait(None if due is None else max(0.0, due - monotonic()))
                self._running, self._stop = batch, Stop()
            begin = monotonic()
            try:
                self._done(batch, run(self.captioner, batch, self._stop), monotonic() - begin)
            except Exception as error:  # whatever it is, the thread goes on and nobody waits for ever
                self._failed(batch, error)

    def _done(self, batch: Sequence[Job], found: Sequence[Any], seconds: float) -> None:
        stage, pairs = batch[0].kind[0], list(zip(batch, found, strict=True))
        self._observer.stage(self._name, stage, seconds, len(batch))
        if stage == "encode":
            for job, grid_PC in pairs:
                self.captioner.memory.put(job.key, grid_PC)
        with self._changed:
            self._running, self._stop = [], None
            self._recent.add(stage, seconds, len(batch))
            if stage == "encode":
                for job, grid_PC in pairs:
                    self._encoded(job, grid_PC, seconds)
            else:
                self._found(pairs, seconds)

    def _encoded(self, job: Job, grid_PC: NDArray[np.float32], seconds: float) -> None:
        if job.calls:
            del self._pictures[job.key]
        for call in job.calls:
            call.encode_seconds = seconds
        self._seen(job.key, grid_PC, job.calls)

    def _found(self, pairs: Sequence[tuple[Job, Any]], seconds: float) -> None:
        now = monotonic()
        if calls := sum(len(job.calls) for job, _ in pairs):
            self._recent.add("call", now - self._left, calls)
            self._left = now
        for job, found in pairs:
            captions, answered = (None, found) if isinstance(job.task, Query) else (found, None)
            for call in list(job.calls):
                queue = max(0.0, now - call.arrived - call.decode_seconds - call.encode_seconds - seconds)
                outcome = Outcome(captions, answered, call.decode_seconds, call.encode_seconds, seconds, queue)
                self._settle(call, outcome)

    def _failed(self, batch: Sequence[Job], error: Exception) -> None:
        with self._changed:
            self._running, self._stop = [], None
            wanted = [job for job in batch if job.calls]
            for job in wanted:
                if len(batch) == 1:
                    self._fail(job.calls, error)
                else:
                    job.alone = True
                    self._waiting.jobs.append(job)
        if wanted and len(batch) > 1:
            log.warning("model %s: a run of %d failed, each is tried alone", self._name, len(batch), exc_info=error)


def _set(settled: asyncio.Future[Any], found: Outcome | Exception) -> None:
    if not settled.done():
        settled.set_result(found)
