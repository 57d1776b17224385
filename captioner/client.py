"""Captions and answers from servers: `Client("127.0.0.1:50051").caption(photo)`. Needs captioner[serve]; no engine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event, Semaphore
from time import monotonic, sleep
from types import TracebackType
from typing import Any, TypeVar, Unpack

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
from captioner.client_messages import (
    AnswerReply,
    CaptionReply,
    ClientError,
    FigureReply,
    Served,
    ServedModel,
    StageDurations,
    client_error,
)
from captioner.client_stream import Outcome, Photos, Sent, keyed
from captioner.config import at_least
from captioner.connection import Connection, Tls
from captioner.v1 import captioner_pb2_grpc

__all__ = [
    "AnswerReply",
    "CaptionReply",
    "Client",
    "ClientError",
    "FigureReply",
    "Served",
    "ServedModel",
    "StageDurations",
    "Tls",
]

T = TypeVar("T")


class Client:
    """A connection to servers; close it, or use it in a with statement. Any number of threads may share one.

    Every method raises ClientError if the call fails, OSError for a path that cannot be read, and ValueError for an
    option that cannot be meant; every one takes the options `timeout` and `request_id` (CallOptions).
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
        self._channel = self.connection.open(grpc)
        self._stub: Any = captioner_pb2_grpc.CaptionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def caption(self, photo: PhotoFile, **options: Unpack[CaptionOptions]) -> CaptionReply:
        """Captions of a photo, best first."""
        return self._run(caption_call(photo, **options))

    def answer(self, photo: PhotoFile, question: str, **options: Unpack[AnswerOptions]) -> AnswerReply:
        """Answers to a question about a photo, the most probable first."""
        return self._run(answer_call(photo, question, **options))

    def draw_attention(self, photo: PhotoFile, **options: Unpack[DrawOptions]) -> FigureReply:
        """A PNG of where the model looked for the best caption, or for the answer to the option `question`."""
        return self._run(draw_call(photo, **options))

    def model(self, name: str = "", **options: Unpack[CallOptions]) -> ServedModel:
        """The served model of this name, or the default one, and what it accepts."""
        return self._run(model_call(name, **options))

    def models(self, **options: Unpack[CallOptions]) -> list[ServedModel]:
        """All served models, the default one first."""
        return self._run(models_call(**options))

    def caption_many(
        self, photos: Photos, concurrency: int = 8, **options: Unpack[CaptionOptions]
    ) -> Iterator[tuple[Any, Outcome]]:
        """Captions of any number of photos as they finish, each with its key in the mapping, or its place from 0.

        At most `concurrency` photos are in memory, read and not yet yielded. A photo that fails does so alone. Each is
        a call of its own: with its own deadline, tried again, on any server. A stream has none of that, and spares
        about a millisecond of CPU for each photo. Close the iterator early, and calls in flight end unseen.
        """
        at_least("concurrency", concurrency, 1)
        return self._caption_many(keyed(photos), concurrency, options)

    def caption_stream(
        self, photos: Photos, concurrency: int = 8, **options: Unpack[CaptionOptions]
    ) -> Iterator[tuple[Any, Outcome]]:
        """As caption_many, but through one StreamCaptionImages to one server; `timeout` is for all, by default an hour.

        Raises ClientError where the stream itself fails: nothing is tried again.
        """
        at_least("concurrency", concurrency, 1)
        return self._caption_stream(keyed(photos), concurrency, Sent(options))

    def close(self) -> None:
        """Cancel the calls in flight and disconnect."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        deadline = monotonic() + (call.timeout or self.connection.timeout)
        method, metadata = getattr(self._stub, call.method), self.connection.metadata(call.request_id)
        while True:
            try:
                with self.connection.attempt(call.request_id):
                    response = method(call.request, timeout=deadline - monotonic(), metadata=metadata)
                return call.read(response, call.request_id)
            except ClientError as error:
                pause = self.connection.wait_before_retry(error, deadline - monotonic())
                if pause is None:
                    raise
            sleep(pause)

    def _caption_many(
        self, photos: Iterator[tuple[Any, PhotoFile]], concurrency: int, options: CaptionOptions
    ) -> Iterator[tuple[Any, Outcome]]:
        def outcome(photo: PhotoFile) -> Outcome:
            try:
                return self.caption(photo, **options)
            except (ClientError, OSError) as e:
                return e

        running: dict[Future[Outcome], Any] = {}
        pool = ThreadPoolExecutor(concurrency, "caption_many")
        try:
            more = True
            while more or running:
                while more and len(running) < concurrency:
                    if more := (pair := next(photos, None)) is not None:
                        running[pool.submit(outcome, pair[1])] = pair[0]
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # whoever leaves early need not wait for what is in flight

    def _caption_stream(
        self, photos: Iterator[tuple[Any, PhotoFile]], concurrency: int, sent: Sent
    ) -> Iterator[tuple[Any, Outcome]]:
        slots, left = Semaphore(concurrency), Event()

        def requests() -> Iterator[Any]:  # gRPC runs it in a thread of its own
            try:
                while slots.acquire() and not left.is_set():
                    key, photo = next(photos)
                    request = sent.request(key, photo)
                    if request is None:
                        slots.release()
                    else:
                        yield request
            except StopIteration:
                return
            except Exception as e:  # of the photos: gRPC would only log it
                sent.error = e

        metadata = self.connection.metadata(sent.request_id)
        call = self._stub.StreamCaptionImages(requests(), timeout=sent.timeout, metadata=metadata)
        try:
            for response in call:
                slots.release()
                yield sent.result(response)
                yield from sent.unread()
            yield from sent.unread()
        except grpc.RpcError as e:
            raise client_error(e, sent.request_id) from e
        finally:
            left.set()
            slots.release()
            call.cancel()
        if sent.error is not None:
            raise sent.error
