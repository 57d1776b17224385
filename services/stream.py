"""Work on a stream of requests side by side, results in the order in which they finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from services.errors import NotReadyError

Request = TypeVar("Request")
Response = TypeVar("Response")


async def as_finished(
    requests: AsyncIterator[Request],
    work: Callable[[Request], Awaitable[Response]],
    ahead: int,
    closing: asyncio.Event,
) -> AsyncGenerator[Response, None]:
    """The results of at most `ahead` requests at a time; one counts until its result was taken.

    After an exception, and once closing is set (NotReadyError), no more is read; what was begun is finished and
    yielded, then it is raised. Close the iterator, and what was begun is cancelled.
    """
    source = aiter(requests)
    closed = asyncio.ensure_future(closing.wait())
    reading: asyncio.Future[Any] | None = None
    working: set[asyncio.Future[Response]] = set()
    error: BaseException | None = None
    more = True
    try:
        while more or working:
            if more and reading is None and len(working) < ahead:
                reading = asyncio.ensure_future(anext(source))
            waiting = {*working, *((closed,) if more else ()), *((reading,) if reading else ())}
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading in done:
                try:
                    working.add(asyncio.ensure_future(work(reading.result())))
                except StopAsyncIteration:
                    more = False
                except Exception as failure:
                    error, more = failure, False
                reading = None
            if closed in done and more:
                error, more = NotReadyError("DRAINING"), False
            if not more and reading is not None:
                reading.cancel()
                reading = None
            for task in done & working:
                working.discard(task)
                if task.exception() is None:
                    yield task.result()
                else:
                    error, more = error or task.exception(), False
        if error is not None:
            raise error
    finally:
        begun = [task for task in (closed, reading, *working) if task is not None]
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
