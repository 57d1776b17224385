"""The client of captioner.client for asyncio: `await AsyncClient("127.0.0.1:50051").caption(photo)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from time import monotonic
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack

import grpc

from captioner.client_calls import (
    AnswerOptions,
    Call,
    CallOptions,
    CaptionOptions,
    DrawOptions,
    PhotoFile,
    answer_call,
    caption_call,
    draw_call,
    model_call,
    models_call,
)
from captioner.client_messages import AnswerReply, CaptionReply, ClientError, FigureReply, ServedModel, client_error
from captioner.client_stream import Outcome, Photos, Sent, keyed_async
from captioner.config import at_least
from captioner.connection import Connection, Tls
from captioner.v1 import captioner_pb2_grpc

__all__ = ["AsyncClient"]

T = TypeVar("T")
P = ParamSpec("P")


class AsyncClient:
    """A connection to servers, made and used inside one event loop; close it, or use it in an async with statement.

    Every method raises ClientError if the call fails, OSError for a path that cannot be read, and ValueError for an
    option that cannot be meant; every one takes the options `timeout` and `request_id` (CallOptions). Files are read in
    a thread. A cancelled call is cancelled on the server too.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        timeout: float = 10.0,
        *,
        retry_when_full: bool = False,
        throttle: float | None = None,
        tls: Tls | None = None,
        token: str | None = None,
    ):
        """Connect at the first call. The arguments are explained at Connection."""
        self.connection = Connection(target, timeout, retry_when_full, throttle, tls, token)
        self._channel = self.connection.open(grpc.aio)
        self._stub: Any = captioner_pb2_grpc.CaptionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def caption(self, photo: PhotoFile, **options: Unpack[CaptionOptions]) -> CaptionReply:
        """Captions of a photo, best first."""
        return await self._run(await _reading(photo, caption_call, photo, **options))

    async def answer(self, photo: PhotoFile, question: str, **options: Unpack[AnswerOptions]) -> AnswerReply:
        """Answers to a question about a photo, the most probable first."""
        return await self._run(await _reading(photo, answer_call, photo, question, **options))

    async def draw_attention(self, photo: PhotoFile, **options: Unpack[DrawOptions]) -> FigureReply:
        """A PNG of where the model looked for the best caption, or for the answer to the option `question`."""
        return await self._run(await _reading(photo, draw_call, photo, **options))

    async def model(self, name: str = "", **options: Unpack[CallOptions]) -> ServedModel:
        """The served model of this name, or the default one, and what it accepts."""
        return await self._run(model_call(name, **options))

    async def models(self, **options: Unpack[CallOptions]) -> list[ServedModel]:
        """All served models, the default one first."""
        return await self._run(models_call(**options))

    async def caption_many(
        self, photos: Photos | AsyncIterable[PhotoFile], concurrency: int = 8, **options: Unpack[CaptionOptions]
    ) -> AsyncIterator[tuple[Any, Outcome]]:
        """Captions of any number of photos as they finish, each with its key in the mapping, or its place from 0.

        At most `concurrency` photos are in memory, read and not yet yielded. A photo that fails does so alone. Each is
        a call of its own: with its own deadline, tried again, on any server. A stream has none of that, and spares
        about a millisecond of CPU for each photo. Close the iterator early, and calls in flight are cancelled.
        """
        at_least("concurrency", concurrency, 1)

        async def outcome(photo: PhotoFile) -> Outcome:
            try:
                return await self.caption(photo, **options)
            except (ClientError, OSError) as e:
                return e

        running: dict[asyncio.Task[Outcome], Any] = {}
        more = True
        async with aclosing(keyed_async(photos)) as source:
            try:
                while more or running:
                    while more and len(running) < concurrency:
                        if more := (pair := await anext(source, None)) is not None:
                            running[asyncio.create_task(outcome(pair[1]))] = pair[0]
                    if running:
                        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            yield running.pop(task), task.result()
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def caption_stream(
        self, photos: Photos | AsyncIterable[PhotoFile], concurrency: int = 8, **options: Unpack[CaptionOptions]
    ) -> AsyncIterator[tuple[Any, Outcome]]:
        """As caption_many, but through one StreamCaptionImages to one server; `timeout` is for all, by default an hour.

        Raises ClientError where the stream itself fails: nothing is tried again.
        """
        at_least("concurrency", concurrency, 1)
        sent = Sent(options)
        slots = asyncio.Semaphore(concurrency)

        async def requests() -> AsyncIterator[Any]:
            try:
                async with aclosing(keyed_async(photos)) as source:
                    while await slots.acquire():
                        key, photo = await anext(source)
                        request = await _reading(photo, sent.request, key, photo)
                        if request is None:
                            slots.release()
                        else:
                            yield request
            except StopAsyncIteration:
                return
            except Exception as e:  # of the photos: gRPC would only log it
                sent.error = e

        call = self._stub.StreamCaptionImages(
            requests(),
            timeout=sent.timeout,
            metadata=self.connection.metadata(sent.request_id),
        )
        try:
            async for response in call:
                slots.release()
                yield sent.result(response)
                for unread in sent.unread():
                    yield unread
            for unread in sent.unread():
                yield unread
        except grpc.RpcError as e:
            raise client_error(e, sent.request_id) from e
        finally:
            call.cancel()
        if sent.error is not None:
            raise sent.error

    async def close(self) -> None:
        """Cancel the calls in flight and disconnect."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        deadline = monotonic() + (call.timeout or self.connection.timeout)
        method, metadata = getattr(self._stub, call.method), self.connection.metadata(call.request_id)
        while True:
            try:
                with self.connection.attempt(call.request_id):
                    response = await method(call.request, timeout=deadline - monotonic(), metadata=metadata)
                return call.read(response, call.request_id)
            except ClientError as error:
                pause = self.connection.wait_before_retry(error, deadline - monotonic())
                if pause is None:
                    raise
            await asyncio.sleep(pause)


async def _reading(photo: PhotoFile, make: Callable[P, T], *given: P.args, **options: P.kwargs) -> T:
    """What `make` makes, in a thread if it reads a file."""
    if isinstance(photo, bytes):
        return make(*given, **options)
    return await asyncio.to_thread(make, *given, **options)
