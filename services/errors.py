"""What goes wrong, and what the caller is told: one table from exception to google.rpc.Status.

A row is for a fault of the caller or of the moment. Whatever has no row is a fault of ours: the caller gets INTERNAL
and an id, the log gets the id and the trace.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from captioner.images import BadImage
from captioner.query import BadQuestion
from services.engine import BusyError, DeadlineError

log = logging.getLogger(__name__)

DOMAIN = "captioner"
LONGEST_MESSAGE = 400
"""Bytes. A status travels in the trailing metadata, of which clients accept 8 KiB in all; some messages quote."""


class OptionsError(ValueError):
    """Options out of their ranges: field name -> what is wrong with it."""

    def __init__(self, violations: Mapping[str, str]):
        super().__init__("; ".join(violations.values()))
        self.violations = violations


class MalformedRequestError(ValueError):
    """Bytes that are no message of the method's type."""


class UnknownModelError(LookupError):
    """A model was named that is not served here."""


class UnavailableError(ValueError):
    """The model cannot do what was asked for; reason is CAPTIONS_, ANSWERS_ or ATTENTION_UNAVAILABLE."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class TokenError(PermissionError):
    """No token or a wrong one; reason is TOKEN_MISSING or TOKEN_INVALID."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


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
class Failure:
    """What a caller is told about an exception."""

    code: grpc.StatusCode
    reason: str
    """UPPER_SNAKE, the same for ever."""
    violations: Mapping[str, str] = field(default_factory=dict)
    """Field of the request -> what is wrong with it."""
    retry_after: float | None = None
    """Seconds; None if repeating the call would not help."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    message: str = ""

    def status(self) -> status_pb2.Status:
        """The same on the wire."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        details: list[Any] = [info]
        if self.violations:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(field=name, description=_short(text))
                for name, text in self.violations.items()
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        if self.retry_after is not None:
            delay = Duration()
            delay.FromMilliseconds(round(1000 * self.retry_after))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=_short(self.message))
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return status


_INVALID, _PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION

TABLE: dict[type[Exception], Callable[[Any], Failure]] = {
    BadImage: lambda e: Failure(_INVALID, e.reason, violations={"image": str(e)}),
    BadQuestion: lambda e: Failure(
        _PRECONDITION if e.reason == "HISTORY_UNAVAILABLE" else _INVALID, e.reason, violations={e.field: str(e)}
    ),
    OptionsError: lambda e: Failure(_INVALID, "OPTION_OUT_OF_RANGE", violations=e.violations),
    MalformedRequestError: lambda e: Failure(_INVALID, "MALFORMED_REQUEST"),
    UnavailableError: lambda e: Failure(_PRECONDITION, e.reason),
    UnknownModelError: lambda e: Failure(grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"),
    TokenError: lambda e: Failure(grpc.StatusCode.UNAUTHENTICATED, e.reason),
    QueueFullError: lambda e: Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=e.retry_after),
    BusyError: lambda e: Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=e.retry_after),
    NotReadyError: lambda e: Failure(grpc.StatusCode.UNAVAILABLE, e.reason, retry_after=1.0),
    DeadlineError: lambda e: Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
}


def failure_of(error: BaseException) -> Failure:
    """What a caller is told about an exception; one that is not in the table is logged with its trace."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            failure = TABLE[kind](error)
            return Failure(**{**vars(failure), "message": str(error)})
    number = uuid.uuid4().hex[:12]
    log.error("internal error %s", number, exc_info=error)
    message = f"internal error {number}; the server's log has the details"
    return Failure(grpc.StatusCode.INTERNAL, "INTERNAL", metadata={"id": number}, message=message)


def status_of(error: BaseException) -> status_pb2.Status:
    """The status that answers an exception."""
    return failure_of(error).status()


def _short(text: str) -> str:
    """At most LONGEST_MESSAGE bytes, and no half characters."""
    data = text.encode(errors="replace")
    if len(data) <= LONGEST_MESSAGE:
        return data.decode()
    return data[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "..."
