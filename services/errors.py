"""What goes wrong, and what the caller is told: one table from exception to google.rpc.Status.

A row is for a fault of the caller or of the moment. Whatever has no row is a fault of ours: the caller gets INTERNAL
and an id, the log gets the id and the trace.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from captioner.images import BadImage

log = logging.getLogger(__name__)

DOMAIN = "captioner"
# A status travels in the trailing metadata, of which clients accept 8 KiB in all; some messages quote the caller.
LONGEST_MESSAGE = 500

Service = TypeVar("Service")
Request = TypeVar("Request")
Response = TypeVar("Response")
Method = Callable[[Service, Request, grpc.aio.ServicerContext], Awaitable[Response]]


class OptionsError(ValueError):
    """Options out of their ranges: field name -> what is wrong with it."""

    def __init__(self, violations: Mapping[str, str]):
        super().__init__("; ".join(violations.values()))
        self.violations = violations


class UnknownModelError(LookupError):
    """A model was named that is not served here."""


class AttentionUnavailableError(ValueError):
    """Attention was asked of a model that has none."""


class QueueFullError(RuntimeError):
    """As many pictures as allowed are waiting; retry_after is in seconds."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


class NotReadyError(RuntimeError):
    """The server does not serve yet, or no longer; reason is LOADING or DRAINING."""

    def __init__(self, reason: str):
        super().__init__(f"the server is {reason.lower()}")
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """What a caller is told about an exception, besides its message."""

    code: grpc.StatusCode
    reason: str
    """UPPER_SNAKE, the same for ever."""
    violations: Mapping[str, str] = field(default_factory=dict)
    """Field of the request -> what is wrong with it."""
    retry_after: float | None = None
    """Seconds; None if repeating the call would not help."""
    metadata: Mapping[str, str] = field(default_factory=dict)


TABLE: dict[type[Exception], Callable[[Any], Answer]] = {
    BadImage: lambda e: Answer(grpc.StatusCode.INVALID_ARGUMENT, e.reason, violations={"image": str(e)}),
    OptionsError: lambda e: Answer(grpc.StatusCode.INVALID_ARGUMENT, "OPTION_OUT_OF_RANGE", violations=e.violations),
    AttentionUnavailableError: lambda e: Answer(grpc.StatusCode.FAILED_PRECONDITION, "ATTENTION_UNAVAILABLE"),
    UnknownModelError: lambda e: Answer(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    QueueFullError: lambda e: Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=e.retry_after),
    NotReadyError: lambda e: Answer(grpc.StatusCode.UNAVAILABLE, e.reason, retry_after=1.0),
}


def status_of(error: Exception) -> status_pb2.Status:
    """The status that answers an exception; one that is not in the table is logged with its trace."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return _status(TABLE[kind](error), str(error))
    number = uuid.uuid4().hex[:12]
    log.error("internal error %s", number, exc_info=error)
    answer = Answer(grpc.StatusCode.INTERNAL, "INTERNAL", metadata={"id": number})
    return _status(answer, f"internal error {number}; the server's log has the details")


def _status(answer: Answer, message: str) -> status_pb2.Status:
    """The answer on the wire."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=answer.reason, domain=DOMAIN, metadata=answer.metadata)]
    if answer.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description=_short(text))
            for name, text in answer.violations.items()
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if answer.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(1000 * answer.retry_after))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=answer.code.value[0], message=_short(message))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."


def answers_errors(method: Method[Service, Request, Response]) -> Method[Service, Request, Response]:
    """A servicer's unary method that answers its exceptions with status_of."""

    @wraps(method)
    async def guarded(self: Service, request: Request, context: grpc.aio.ServicerContext) -> Response:
        try:
            return await method(self, request, context)
        except asyncio.CancelledError:
            raise  # the caller is gone; swallowing it leaks the call (grpc issue 43360)
        except Exception as error:
            await context.abort_with_status(rpc_status.to_status(status_of(error)))
            raise AssertionError("abort_with_status returned") from error

    return guarded
