"""What happens to every call but health checks: a request id, the token, errors to statuses, and one report at its end.

Works on whatever context can do what grpc.aio.ServicerContext does, so that calls over HTTP go through it too. A call
without a good token is refused before its message is read.

A call with one answer, or a failed one, carries its request id in the trailing metadata, not in the initial: with
initial metadata on the wire a client's retry policy would not apply any more (gRPC A6, "committed"), and the kill of a
server at that moment would fail the call.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic, time_ns
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from grpc_status import rpc_status

from services.errors import Failure, MalformedRequestError, TokenError, failure_of
from services.pipeline import DeadlineError, ended_by
from services.security import Tokens

REQUEST_ID = "x-request-id"
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEALTH = "/grpc.health.v1.Health/"
_OK = grpc.StatusCode.OK


@dataclass
class Call:
    """One call, as it is reported at its end; never a picture's content, a question or a token."""

    method: str
    """Without its service."""
    request_id: str
    peer: str
    metadata: Sequence[tuple[str, Any]] = field(default=(), repr=False)
    """As it came: not for the log."""
    deadline: float | None = None
    """time.monotonic() seconds; None without one."""
    caller: str = ""
    """The name of the token."""
    model: str = ""
    """name@version."""
    pictures: int = 0
    picture_bytes: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds."""
    code: grpc.StatusCode = _OK
    reason: str = ""
    begun_ns: int = field(default_factory=time_ns)
    """By the wall clock."""
    begun: float = field(default_factory=monotonic)
    seconds: float = 0.0
    on_failure: Callable[[Failure], None] = field(default=lambda failure: None, repr=False)

    def picture(self, data: bytes) -> None:
        """A picture came."""
        self.pictures += 1
        self.picture_bytes += len(data)

    def fail(self, error: BaseException) -> status_pb2.Status:
        """The call, or one picture of it, failed: count that, and say what the caller is told."""
        failure = failure_of(error)
        self.on_failure(failure)
        return failure.status()


current: ContextVar[Call] = ContextVar("current")
"""The call that the running task works for."""


def current_call() -> Call:
    """The same; where there is no interceptor, one that nobody reads."""
    return current.get(None) or Call("", "", "")


class Watcher(Protocol):
    """Is told of calls."""

    def finished(self, call: Call) -> None:
        """A call ended."""

    def failed(self, failure: Failure) -> None:
        """A call, or one picture of a stream, failed."""


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The only one; tokens None lets everybody in."""

    def __init__(self, tokens: Tokens | None = None, watchers: Sequence[Watcher] = ()):
        self.tokens, self.watchers = tokens, watchers
        self.active = 0
        """Calls that have begun and not ended, reflection not counted: it may go on for ever."""
        self.idle = asyncio.Event()
        """Set while there are none."""
        self.idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_HEALTH):
            return handler
        metadata = tuple(handler_call_details.invocation_metadata or ())
        caller = ""
        if self.tokens is not None:
            try:
                caller = self.tokens.check(metadata)
            except TokenError as error:
                return _Refused(self, method, metadata, error)
        return _Watched(self, method, metadata, caller, handler)

    @asynccontextmanager
    async def watch(self, method: str, metadata: Any, caller: str, context: Any) -> AsyncIterator[Call]:
        """Around the work of one call."""
        left = context.time_remaining()
        call = Call(method.rsplit("/", 1)[-1], _request_id(metadata), context.peer(), metadata, caller=caller)
        call.deadline = None if left is None else call.begun + left
        call.on_failure = self._failed
        current.set(call)
        counts = not method.startswith("/grpc.")
        self.active += counts
        if counts:
            self.idle.clear()
        try:
            yield call
        except asyncio.CancelledError:
            if not _cancelled():
                await _abort(context, call, RuntimeError("the work was cancelled, the call was not"))
            late = ended_by(call.deadline)
            call.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise  # swallowing it leaks the call (grpc issue 43360)
        except grpc.aio.AbortError:
            call.code = _code(context)
            raise
        except Exception as error:
            await _abort(context, call, error)
        finally:
            self.active -= counts
            if self.active == 0:
                self.idle.set()
            call.seconds = monotonic() - call.begun
            for watcher in self.watchers:
                watcher.finished(call)

    def _failed(self, failure: Failure) -> None:
        for watcher in self.watchers:
            watcher.failed(failure)


class _Handler(grpc.RpcMethodHandler):  # type: ignore[misc]
    """All that gRPC asks of a handler."""

    request_streaming = response_streaming = False
    request_deserializer: Any = None
    response_serializer: Any = None
    unary_unary: Any = None
    unary_stream: Any = None
    stream_unary: Any = None
    stream_stream: Any = None


class _Refused(_Handler):
    """A call that is refused. It is a stream, whatever the method is: the message is then not read."""

    request_streaming = response_streaming = True

    def __init__(self, calls: CallInterceptor, method: str, metadata: Any, error: Exception):
        async def refuse(_: Any, context: Any) -> None:
            async with calls.watch(method, metadata, "", context):
                raise error

        self.unary_unary = self.stream_stream = refuse


class _Watched(_Handler):
    """A call that is let in; its handler's kind, its message or MalformedRequestError instead of one."""

    def __init__(self, calls: CallInterceptor, method: str, metadata: Any, caller: str, handler: grpc.RpcMethodHandler):
        self.request_streaming, self.response_streaming = handler.request_streaming, handler.response_streaming
        self.response_serializer = handler.response_serializer
        if handler.request_deserializer is not None:
            self.request_deserializer = _tolerant(handler.request_deserializer)
        inner = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream

        async def one(request: Any, context: Any) -> Any:
            async with calls.watch(method, metadata, caller, context) as call:
                response = await inner(_checked(request), context)
                context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
                return response

        async def many(request: Any, context: Any) -> None:
            async with calls.watch(method, metadata, caller, context) as call:
                begun = False
                # Closed here, not by the garbage collector: a cancelled call's pictures stop at once.
                async with aclosing(inner(_checked(request), context)) as responses:
                    async for response in responses:
                        if not begun:
                            await context.send_initial_metadata(((REQUEST_ID, call.request_id),))
                            begun = True
                        await context.write(response)
                if call.deadline is not None and monotonic() >= call.deadline:
                    raise DeadlineError("the deadline has passed")  # its pictures have failed one by one before it

        self.unary_unary = one if handler.unary_unary else None
        self.stream_unary = one if handler.stream_unary else None
        self.unary_stream = many if handler.unary_stream else None
        self.stream_stream = many if handler.stream_stream else None


def _request_id(metadata: Sequence[tuple[str, Any]]) -> str:
    """The caller's, if it is one, or a new one."""
    for name, value in metadata:
        if name == REQUEST_ID and isinstance(value, str) and REQUEST_ID_PATTERN.fullmatch(value):
            return value
    return uuid.uuid4().hex


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """gRPC would answer bytes that are no message with UNKNOWN and the text of the exception."""

    def deserialized(data: bytes) -> Any:
        try:
            return deserialize(data)
        except (DecodeError, ValueError):
            return MalformedRequestError("the request is not a message of this method's type")

    return deserialized


def _checked(request: Any) -> Any:
    """The message, or the stream of messages; raises MalformedRequestError instead of one that is none."""
    if isinstance(request, MalformedRequestError):
        raise request
    if hasattr(request, "__aiter__"):
        return _checked_stream(request)
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _cancelled() -> bool:
    """Whether the running task was cancelled, and not only something that it awaits."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _code(context: Any) -> grpc.StatusCode:
    code = context.code()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


async def _abort(context: Any, call: Call, error: BaseException) -> None:
    """End the call with the error's status."""
    failure = failure_of(error)
    call.code, call.reason = failure.code, failure.reason
    call.on_failure(failure)
    status = rpc_status.to_status(failure.status())
    await context.abort(status.code, status.details, (*status.trailing_metadata, (REQUEST_ID, call.request_id)))
    raise AssertionError("abort returned") from error
