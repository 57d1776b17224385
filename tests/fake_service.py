"""A CaptionService without a model, for tests of what stands around it: three captions, five answers, known maps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from math import log
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status

from captioner.images import decode_image
from captioner.query import Query
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.errors import UnknownModelError, status_of
from services.gateway import Web, serve_web

SENTENCES = (
    (("a", 0.5), ("man", 0.4), ("'s", 0.9), ("dog", 0.005)),
    (("two", 0.2), ("dogs", 0.8)),
    ((("grass", 0.1)),),
)
ANSWERS = {"yes": 0.6, "no": 0.25, "two": 0.1, "red": 0.046, "blue": 0.004}
KNOWN = {"what", "is", "this", "dog", "the"}
ROWS, COLUMNS = 4, 5


def one_hot(cell: int) -> pb.AttentionMap:
    """All the weight on one cell."""
    return pb.AttentionMap(rows=ROWS, columns=COLUMNS, weights=[float(n == cell) for n in range(ROWS * COLUMNS)])


def model(name: str = "fake", **fields: Any) -> pb.Model:
    """A model that can do everything."""
    described = {
        "version": "0123456789ab", "precision": "int8", "provider": "cpu", "vocabulary_size": 1234,
        "has_attention": True,
        "search_defaults": pb.SearchOptions(beam_size=7, max_words=20, captions=3, length_power=0.2),
        "search_maxima": pb.SearchOptions(beam_size=20, max_words=50, captions=20, length_power=2.0),
        "image_limits": pb.ImageLimits(
            max_bytes=2**24, max_pixels=40_000_000, min_side=8, max_side=30_000, max_aspect=50
        ),
        "writes_captions": True, "answers_questions": True, "answer_count": 5, "has_answer_attention": True,
        "question_limits": pb.QuestionLimits(max_characters=1000, max_words=50, max_history=20, max_top=20),
    }  # fmt: skip
    return pb.Model(name=name, **{**described, **fields})


def answered(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """As the server's interceptor does: exceptions become statuses."""

    @wraps(method)
    async def guarded(self: FakeService, request: Any, context: Any) -> Any:
        self.seen.append((method.__name__, request, context.invocation_metadata()))
        self.remaining = context.time_remaining()
        try:
            if self.failures:
                raise self.failures.pop(0)
            return await method(self, request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        except Exception as error:
            await context.abort_with_status(rpc_status.to_status(status_of(error)))

    return guarded


class FakeService(captioner_pb2_grpc.CaptionServiceServicer):  # type: ignore[misc]
    """Remembers what it was asked, fails with `failures` first, and stands still while `gate` is closed."""

    def __init__(self) -> None:
        self.models = [model()]
        self.seen: list[tuple[str, Any, Any]] = []
        self.failures: list[Exception] = []
        self.gate, self.cancelled = threading.Event(), threading.Event()
        self.gate.set()
        self.remaining: float | None = None

    def asked(self, method: str) -> list[Any]:
        """The requests of one method."""
        return [request for name, request, _ in self.seen if name == method]

    @answered
    async def CaptionImage(self, request: pb.CaptionImageRequest) -> pb.CaptionImageResponse:  # noqa: N802
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        decode_image(request.image)
        captions = []
        for words in SENTENCES[: request.captions or 3]:
            caption = pb.Caption()
            for n, (text, probability) in enumerate(words):
                attention = one_hot(n) if request.include_attention else None
                caption.words.append(pb.Word(text=text, log_prob=log(probability), attention=attention))
            caption.text = " ".join(text for text, _ in words).replace(" 's", "'s")
            caption.log_prob = sum(word.log_prob for word in caption.words)
            captions.append(caption)
        durations = pb.StageDurations()
        durations.encode.FromMicroseconds(3500)
        durations.search.FromMilliseconds(7000)
        return pb.CaptionImageResponse(
            captions=captions, model=request.model, model_version="0123456789ab", stage_durations=durations
        )

    @answered
    async def AnswerQuestion(self, request: pb.AnswerQuestionRequest) -> pb.AnswerQuestionResponse:  # noqa: N802
        decode_image(request.image)
        words = Query(request.question).text.lower().strip("?").split()
        return pb.AnswerQuestionResponse(
            answers=[pb.Answer(text=text, probability=p) for text, p in ANSWERS.items()],
            unknown_words=[word for word in words if word not in KNOWN],
            attention=one_hot(ROWS * COLUMNS - 1) if request.include_attention else None,
            model=request.model, model_version="0123456789ab",
        )  # fmt: skip

    @answered
    async def GetModel(self, request: pb.GetModelRequest) -> pb.GetModelResponse:  # noqa: N802
        for each in self.models:
            if request.model in ("", each.name):
                return pb.GetModelResponse(model=each)
        raise UnknownModelError(f"no model {request.model!r}")

    @answered
    async def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:  # noqa: N802
        return pb.ListModelsResponse(models=self.models)


@dataclass(frozen=True)
class Settings:
    """What the gateway reads of ServerSettings."""

    host: str = "127.0.0.1"
    grace_seconds: float = 5.0
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Any) -> Any:
        """The result of a coroutine, run there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@contextmanager
def web(
    service: Any, interceptors: Sequence[grpc.aio.ServerInterceptor] = (), settings: Any = None
) -> Iterator[tuple[str, Web, Loop]]:
    """A gateway on a free port: its address, itself, and the loop that it runs in."""
    loop = Loop()
    running: Web = loop.run(serve_web(service, settings or Settings(), 0, interceptors))
    try:
        yield f"http://127.0.0.1:{running.port}", running, loop
    finally:
        loop.run(running.close())
        loop.close()
