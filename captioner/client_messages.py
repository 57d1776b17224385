"""What a server answers, in this library's own types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from captioner.config import SearchOptions
from captioner.images import ImageLimits
from captioner.query import QuestionLimits
from captioner.results import Answer, Answered, Caption, Word
from captioner.v1 import captioner_pb2 as pb

T = TypeVar("T")


class ClientError(Exception):
    """A call that failed."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        violations: dict[str, str] | None = None,
        retry_after: float | None = None,
        request_id: str = "",
    ):
        super().__init__(code, reason, message, violations, retry_after, request_id)  # all, so that it can be pickled
        self.code = code
        self.reason = reason
        """UPPER_SNAKE, listed in the proto; "" if gRPC itself ended the call: no server, deadline, message size."""
        self.message = message
        self.violations = violations or {}
        """Field of the request -> what is wrong with it."""
        self.retry_after = retry_after
        """Seconds to wait before another attempt; None if the server did not say."""
        self.request_id = request_id
        """What the server's log calls the call; that of the whole stream for a picture of a stream."""

    def __str__(self) -> str:
        return f"{self.code.name}{f' ({self.reason})' if self.reason else ''}: {self.message}"


@dataclass(frozen=True)
class StageDurations:
    """Seconds that the stages of one call took on the server."""

    decode: float
    encode: float
    search: float
    """Of captions, or of answers."""
    queue: float
    """Waiting, at all stages together."""


@dataclass(frozen=True)
class Served:
    """What answered a call."""

    model: str
    model_version: str
    durations: StageDurations
    request_id: str


class CaptionReply(list[Caption]):
    """The captions of a photo, best first, and what made them."""

    def __init__(self, captions: Iterable[Caption], served: Served):
        super().__init__(captions)
        self.served = served


@dataclass(frozen=True, eq=False)
class AnswerReply(Answered):
    """The answers to a question, and what made them."""

    served: Served = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class FigureReply:
    """A picture of where the model looked, and what made it."""

    png: bytes
    subject: Caption | Answer
    """What the figure shows."""
    served: Served


@dataclass(frozen=True)
class ServedModel:
    """A model that a server answers with; the fields are those of Model in the proto."""

    name: str
    version: str
    precision: str
    provider: str
    vocabulary_size: int
    has_attention: bool
    search_defaults: SearchOptions
    search_maxima: SearchOptions
    image_limits: ImageLimits
    writes_captions: bool
    answers_questions: bool
    answer_count: int
    has_answer_attention: bool
    accepts_history: bool
    question_limits: QuestionLimits | None
    """None if it answers none."""


def caption_reply(response: pb.CaptionImageResponse, request_id: str) -> CaptionReply:
    """Of CaptionImage."""
    return CaptionReply(map(_caption, response.captions), _served(response, request_id))


def answer_reply(response: pb.AnswerQuestionResponse, request_id: str) -> AnswerReply:
    """Of AnswerQuestion."""
    return AnswerReply(
        answers=tuple(map(_answer, response.answers)),
        attention=_map(response),
        unknown_words=tuple(response.unknown_words),
        unknown_candidates=tuple(response.unknown_candidates),
        served=_served(response, request_id),
    )


def figure_reply(response: pb.DrawAttentionResponse, request_id: str) -> FigureReply:
    """Of DrawAttention."""
    captioned = response.WhichOneof("subject") == "caption"
    subject = _caption(response.caption) if captioned else _answer(response.answer)
    return FigureReply(response.png, subject, _served(response, request_id))


def served_model(model: pb.Model) -> ServedModel:
    """Of GetModel and ListModels."""
    nested: dict[str, Any] = {
        "search_defaults": _copy(SearchOptions, model.search_defaults),
        "search_maxima": _copy(SearchOptions, model.search_maxima),
        "image_limits": _copy(ImageLimits, model.image_limits),
        "question_limits": _copy(QuestionLimits, model.question_limits) if model.HasField("question_limits") else None,
    }
    plain = {field.name: getattr(model, field.name) for field in fields(ServedModel) if field.name not in nested}
    return ServedModel(**plain, **nested)


def picture_outcome(response: pb.StreamCaptionImagesResponse, request_id: str) -> CaptionReply | ClientError:
    """What became of one picture of a stream."""
    if response.WhichOneof("outcome") == "response":
        return caption_reply(response.response, request_id)
    status = status_pb2.Status.FromString(response.error.SerializeToString())  # on the wire the same, says the proto
    code = next((c for c in grpc.StatusCode if c.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return _error(code, status, request_id)


def client_error(error: Any, request_id: str) -> ClientError:
    """What gRPC raised, as ours."""
    plain = status_pb2.Status(message=error.details() or "")
    try:
        return _error(error.code(), rpc_status.from_call(error) or plain, request_id)
    except ValueError:  # code and details contradict each other, as a proxy's may
        return _error(error.code(), plain, request_id)


def _error(code: grpc.StatusCode, status: status_pb2.Status, request_id: str) -> ClientError:
    reason, violations, retry_after = "", {}, None
    for detail in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            violations = {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Unpack(retry):
            retry_after = _seconds(retry.retry_delay)
    return ClientError(code, reason, status.message, violations, retry_after, request_id)


def _served(response: Any, request_id: str) -> Served:
    names = ("decode", "encode", "search", "queue")
    durations = StageDurations(**{name: _seconds(getattr(response.stage_durations, name)) for name in names})
    return Served(response.model, response.model_version, durations, request_id)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _caption(caption: pb.Caption) -> Caption:
    words = tuple(Word(word.text, word.log_prob, _map(word)) for word in caption.words)
    return Caption(caption.text, caption.log_prob, caption.score, words)


def _answer(answer: pb.Answer) -> Answer:
    return Answer(answer.text, answer.probability)


def _map(message: pb.Word | pb.AnswerQuestionResponse) -> NDArray[np.float32] | None:
    if not message.HasField("attention"):
        return None
    attention = message.attention
    return np.array(attention.weights, np.float32).reshape(attention.rows, attention.columns)


def _copy(kind: Callable[..., T], message: Any) -> T:
    """An object with the fields of a message; what the message does not have stays as it is by default."""
    return kind(**{field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields})
