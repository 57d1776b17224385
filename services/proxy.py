"""What Ray Serve's gRPC proxy does with a call besides passing it on, which its own code would not do.

It tells the replica the deadline. It ends a failed call by abort(): Ray returns an empty response beside the status,
and after that no client tries again (see services.interceptors). And where Ray itself fails a call it says so in our
terms, not in Ray's, which name hosts, processes and files.

Ray calls add_services in every proxy (gRPCOptions.grpc_servicer_functions). The seam, service_handler_factory of Ray's
server, is not documented by Ray: tests/test_cluster.py finds out if it goes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from captioner.v1 import captioner_pb2_grpc
from services.errors import Failure

TIME_LEFT = "captioner-time-left"
"""Metadata from proxy to replica: seconds until the deadline."""
_DETAILS = "grpc-status-details-bin"
_UNAVAILABLE, _EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
RAY_FAILED = {
    grpc.StatusCode.INTERNAL: Failure(_UNAVAILABLE, "REPLICA_LOST", retry_after=1.0, message="the replica was lost"),
    grpc.StatusCode.NOT_FOUND: Failure(_UNAVAILABLE, "DRAINING", retry_after=1.0, message="no replicas are kept here"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failure(
        _EXHAUSTED, "QUEUE_FULL", retry_after=1.0, message="no replica has room"
    ),
}
"""By the code that Ray gives: a replica died, the application is gone, max_queued_requests is reached."""


def add_services(servicer: Any, server: Any) -> None:
    """Let Ray's server pass on CaptionService, in the way above, and health checks as Ray does."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    make = server.service_handler_factory

    def factory(*, service_method: str, streaming_type: Any) -> Any:
        handler = make(service_method=service_method, streaming_type=streaming_type)
        return (_one if streaming_type.name.endswith("_UNARY") else _many)(handler)

    server.service_handler_factory = factory
    captioner_pb2_grpc.add_CaptionServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    server.service_handler_factory = make


class _Told:
    """The context of a call, with the deadline in its metadata."""

    def __init__(self, context: Any):
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[tuple[str, Any]]:
        """What the caller sent, and the time left."""
        sent = [(key, value) for key, value in self._context.invocation_metadata() if key != TIME_LEFT]
        left = self._context.time_remaining()
        return sent if left is None else [*sent, (TIME_LEFT, f"{left:.6f}")]


def _one(handler: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(request: Any, context: Any) -> Any:
        response = await handler(request, _Told(context))
        await _end(context)
        return response

    return answer


def _many(handler: Callable[..., Any]) -> Callable[..., Any]:
    async def answer(requests: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(handler(requests, _Told(context))) as responses:
            async for response in responses:
                yield response
        await _end(context)

    return answer


async def _end(context: Any) -> None:
    """Abort the call if it failed."""
    code = context.code()
    if not isinstance(code, grpc.StatusCode) or code is grpc.StatusCode.OK:
        return
    trailing = tuple(context.trailing_metadata())
    details = context.details()
    if code in RAY_FAILED and all(key != _DETAILS for key, _ in trailing):
        status = rpc_status.to_status(RAY_FAILED[code].status())
        code, details, trailing = status.code, status.details, (*status.trailing_metadata, *trailing)
    await context.abort(code, details, trailing)
