"""Every call of the service as a value: the message, and how its answer is read. Nothing here talks to anybody."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, Unpack

from captioner.client_messages import (
    AnswerReply,
    CaptionReply,
    FigureReply,
    ServedModel,
    answer_reply,
    caption_reply,
    figure_reply,
    served_model,
)
from captioner.v1 import captioner_pb2 as pb

MESSAGE_BYTES = 20 * 2**20
"""The largest message that a server takes, and gRPC sends; pictures are to stay well below it."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

T = TypeVar("T")
PhotoFile: TypeAlias = bytes | str | Path
"""The bytes of a file, or its path."""


class CallOptions(TypedDict, total=False):
    """Options of every call."""

    timeout: float | None
    """Seconds until the call is given up; None for the client's."""
    request_id: str | None
    """What the server's log calls it: 1 to 64 letters, digits, "-", "_" or "."; None for a new one."""


class CaptionOptions(CallOptions, total=False):
    """Options of a caption; what is left out is the server's default. Meaning and ranges: CaptionImageRequest."""

    model: str
    beam_size: int | None
    max_words: int | None
    captions: int | None
    length_power: float | None
    attention: bool
    """Whether each word comes with its attention map."""


class AnswerOptions(CallOptions, total=False):
    """Options of an answer; what is left out is the server's default. Meaning and ranges: AnswerQuestionRequest."""

    model: str
    top: int | None
    history: Sequence[tuple[str, str]]
    candidates: Sequence[str]
    attention: bool
    """Whether the answer comes with its attention map."""


class DrawOptions(CallOptions, total=False):
    """Options of a figure; what is left out is the server's default. Meaning and ranges: DrawAttentionRequest."""

    model: str
    question: str
    """The figure shows the answer to it; without one, the best caption."""
    beam_size: int | None
    max_words: int | None
    length_power: float | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One unary call."""

    method: str
    request: Any
    read: Callable[[Any, str], T]
    """The reply, of the response and the request id."""
    timeout: float | None
    """Seconds; None for the client's."""
    request_id: str


def caption_call(photo: PhotoFile, **options: Unpack[CaptionOptions]) -> Call[CaptionReply]:
    """CaptionImage; like the others here raises OSError for a path that cannot be read, ValueError for a bad option."""
    return _call("CaptionImage", caption_request(photo, options), caption_reply, options)


def answer_call(photo: PhotoFile, question: str, **options: Unpack[AnswerOptions]) -> Call[AnswerReply]:
    """AnswerQuestion."""
    fields = _fields(options, AnswerOptions)
    fields["history"] = [pb.Exchange(question=asked, answer=answer) for asked, answer in options.get("history", ())]
    request = pb.AnswerQuestionRequest(image=_file(photo), question=question, **fields)
    return _call("AnswerQuestion", request, answer_reply, options)


def draw_call(photo: PhotoFile, **options: Unpack[DrawOptions]) -> Call[FigureReply]:
    """DrawAttention."""
    request = pb.DrawAttentionRequest(image=_file(photo), **_fields(options, DrawOptions))
    return _call("DrawAttention", request, figure_reply, options)


def model_call(name: str, **options: Unpack[CallOptions]) -> Call[ServedModel]:
    """GetModel."""
    return _call("GetModel", pb.GetModelRequest(model=name), lambda response, _: served_model(response.model), options)


def models_call(**options: Unpack[CallOptions]) -> Call[list[ServedModel]]:
    """ListModels."""
    return _call(
        "ListModels", pb.ListModelsRequest(), lambda response, _: [served_model(m) for m in response.models], options
    )


def caption_request(photo: PhotoFile, options: CaptionOptions) -> pb.CaptionImageRequest:
    """The message of a call, or of one picture of a stream."""
    return pb.CaptionImageRequest(image=_file(photo), **_fields(options, CaptionOptions))


def request_name(request_id: str | None) -> str:
    """The caller's id for a call, or a new one; raises ValueError for one that a server would not take."""
    if request_id is None:
        return uuid.uuid4().hex
    if not _REQUEST_ID.fullmatch(request_id):
        raise ValueError(f"request_id must be 1 to 64 letters, digits, '-', '_' or '.', got {request_id[:80]!r}")
    return request_id


def check_timeout(seconds: float) -> None:
    """Raise ValueError unless it is above 0."""
    if not seconds > 0:
        raise ValueError(f"timeout must be above 0 seconds, got {seconds}")


def _call(method: str, request: Any, read: Callable[[Any, str], T], options: Any) -> Call[T]:
    timeout = options.get("timeout")
    if timeout is not None:
        check_timeout(timeout)
    return Call(method, request, read, timeout, request_name(options.get("request_id")))


def _fields(options: Any, kind: Any) -> dict[str, Any]:
    """Those of the options that are fields of the message; raises TypeError for one that there is not."""
    if unknown := set(options) - set(kind.__annotations__):
        raise TypeError(
            f"no option is called {', '.join(sorted(unknown))}; there are {', '.join(kind.__annotations__)}"
        )
    fields = {name: value for name, value in options.items() if name not in CallOptions.__annotations__}
    if "attention" in fields:
        fields["include_attention"] = fields.pop("attention")
    return fields


def _file(photo: PhotoFile) -> bytes:
    if isinstance(photo, bytes):
        return photo
    with Path(photo).open("rb") as file:
        return file.read(MESSAGE_BYTES + 1)  # more cannot be sent
