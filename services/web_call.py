"""Calls that came over HTTP, as the interceptors and the servicer of the gRPC server see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn

import grpc
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.interceptor import MetadataInterceptor
from connectrpc.request import RequestContext
from google.rpc import status_pb2
from protobuf.wkt import Any as WireAny

from services.errors import status_of

DETAILS = "grpc-status-details-bin"
PASSED = ("authorization", "x-request-id", "user-agent", "traceparent", "tracestate")
"""The headers that become metadata."""


current: ContextVar[Call] = ContextVar("current")
"""Of the running task."""


class Metadatum(NamedTuple):
    """A header, as gRPC has them."""

    key: str
    value: str


class Details(NamedTuple):
    """grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: tuple[Metadatum, ...]


class Calls(MetadataInterceptor[None]):
    """Begins each call: connectrpc asks it before the message is read."""

    def __init__(self, service: Any, interceptors: Sequence[grpc.aio.ServerInterceptor]):
        self.service, self.interceptors = service, interceptors

    async def on_start(self, ctx: RequestContext[Any, Any]) -> None:
        """See connectrpc."""
        call = Call(ctx)
        current.set(call)
        await call.begin(self.service, self.interceptors)


async def answer(request: Any, _: RequestContext[Any, Any]) -> Any:
    """The response to the message of the call that was begun."""
    return await current.get().answer(request)


class Call:
    """The part of grpc.aio.ServicerContext that has a meaning over HTTP, for one unary call."""

    def __init__(self, context: RequestContext[Any, Any]):
        self._context = context
        self._handler: Any = None
        self._code, self._details = grpc.StatusCode.OK, ""
        self._trailing: Sequence[tuple[str, str | bytes]] = ()
        self._done: list[Callable[[Any], None]] = []
        self._over = self._cancelled = False

    async def begin(self, service: Any, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> None:
        """Find who answers, before the message is read; a ConnectError where an interceptor refuses the call already:
        it then gives a handler of streams, which needs no message."""
        about = self._context.method
        handler = grpc.unary_unary_rpc_method_handler(getattr(service, about.name))
        details = Details(f"/{about.service_name}/{about.name}", self.invocation_metadata())
        self._handler = await _behind(interceptors, handler)(details)
        if self._handler.request_streaming:
            await self.answer(None)

    async def answer(self, request: Any) -> Any:
        """The response to a request, or a ConnectError."""
        response = None
        try:
            response = await self._handler.unary_unary(request, self)
        except grpc.aio.AbortError:
            pass  # abort() has kept the reason
        except Exception as error:
            status = status_of(error)
            self._code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
            self._details, self._trailing = status.message, ((DETAILS, status.SerializeToString()),)
        except BaseException:
            self._cancelled = True
            raise
        finally:
            self._over = True
            for callback in self._done:
                callback(self)
        if self._code is not grpc.StatusCode.OK:
            raise self._error()
        return response

    def _error(self) -> ConnectError:
        status = status_pb2.Status()
        for key, value in self._trailing:
            if key == DETAILS and isinstance(value, bytes):
                status.ParseFromString(value)
        details = [ErrorDetail(WireAny(type_url=own.type_url, value=own.value)) for own in status.details]
        name = self._code.name.lower().replace("cancelled", "canceled")
        return ConnectError(Code(name), self._details, details)

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """The caller's headers."""
        headers = self._context.request_headers
        return tuple(Metadatum(name, headers[name]) for name in PASSED if name in headers)

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """Headers of the answer."""
        for key, value in metadata:
            self._context.response_headers[key] = value

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """What comes after the answer; over HTTP, only the status's details do."""
        self._trailing = tuple(metadata)

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What was set."""
        return self._trailing

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call with an error."""
        self._code, self._details = code, details
        self._trailing = trailing_metadata or self._trailing
        raise grpc.aio.AbortError

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with an error and its details."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status, if the method returns."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Its message."""
        self._details = details

    def code(self) -> grpc.StatusCode:
        """The status so far."""
        return self._code

    def details(self) -> str:
        """Its message."""
        return self._details

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        left = self._context.timeout_ms
        return None if left is None else max(0.0, left / 1000)

    def peer(self) -> str:
        """Where the caller is."""
        return f"http:{self._context.client_address}"

    def peer_identities(self) -> None:
        """Who the caller is; a certificate is checked before a call begins."""

    def auth_context(self) -> dict[str, Any]:
        """What is known of the caller's certificate."""
        return {}

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Called once the call is over."""
        self._done.append(callback)

    def done(self) -> bool:
        """Whether the call is over."""
        return self._over

    def cancelled(self) -> bool:
        """Whether the caller went away, or its deadline passed."""
        return self._cancelled


def _behind(interceptors: Sequence[grpc.aio.ServerInterceptor], handler: Any) -> Callable[[Any], Awaitable[Any]]:
    """The handler, behind the interceptors; the first is asked first."""

    async def found(_: Any) -> Any:
        return handler

    continuation: Callable[[Any], Awaitable[Any]] = found
    for interceptor in reversed(interceptors):
        continuation = _step(interceptor, continuation)
    return continuation


def _step(
    interceptor: grpc.aio.ServerInterceptor, following: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[Any]]:
    return lambda details: interceptor.intercept_service(following, details)
