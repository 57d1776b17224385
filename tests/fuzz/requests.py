"""Any bytes of a request end as a message that the service can work on, or as a status that is not our fault.

The first byte of an input picks the way, the second the method: the bytes of a gRPC message, or a whole body over HTTP
(JSON, protobuf, gRPC-Web) through the gateway. What follows is what the server does before it asks a model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, MutableMapping
from functools import cache
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from captioner import Captioner, SearchOptions
from captioner.query import Query
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services import translation
from services.errors import MalformedRequestError, failure_of
from services.gateway import SERVICE, Gateway
from tests.server_process import tiny_bundle

STATUS_BYTES = 4096
"""Half of what clients accept as metadata."""
FINE = {200, 400, 404, 408, 413, 415, 429, 501, 504}
"""Statuses over HTTP; 404 is an unknown model, 501 what is not implemented, 504 a deadline of the caller."""


@cache
def captioner() -> Captioner:
    """The model that is asked what it can do."""
    return Captioner.load(tiny_bundle(), threads=1)


def check(request: Any) -> None:
    """Whatever CaptionService checks before it asks a model; raises as it does."""
    if isinstance(request, pb.StreamCaptionImagesRequest):
        assert len(translation.short_id(request.id).encode()) <= translation.ID_BYTES
        translation.check_id(request)
        request = request.request
    if isinstance(request, pb.AnswerQuestionRequest) or getattr(request, "question", ""):
        assert isinstance(translation.query(request, captioner()), Query)
    elif isinstance(request, pb.CaptionImageRequest | pb.DrawAttentionRequest):
        assert isinstance(translation.search_options(request, captioner()), SearchOptions)


class Checked(captioner_pb2_grpc.CaptionServiceServicer):
    """Answers every request that it would work on with nothing."""

    async def CaptionImage(self, request: pb.CaptionImageRequest, _: Any) -> pb.CaptionImageResponse:  # noqa: N802
        check(request)
        return pb.CaptionImageResponse()

    async def AnswerQuestion(self, request: pb.AnswerQuestionRequest, _: Any) -> pb.AnswerQuestionResponse:  # noqa: N802
        check(request)
        return pb.AnswerQuestionResponse()

    async def DrawAttention(self, request: pb.DrawAttentionRequest, _: Any) -> pb.DrawAttentionResponse:  # noqa: N802
        check(request)
        return pb.DrawAttentionResponse()


class Method(NamedTuple):
    """A method and the type of its requests."""

    name: str
    message: Callable[..., Message]


METHODS = [
    Method("CaptionImage", pb.CaptionImageRequest),
    Method("AnswerQuestion", pb.AnswerQuestionRequest),
    Method("DrawAttention", pb.DrawAttentionRequest),
    Method("StreamCaptionImages", pb.StreamCaptionImagesRequest),
]
OVER_HTTP = METHODS[:3]
HTTP = ["application/json", "application/proto", "application/grpc-web+proto", "application/grpc-web"]
WAYS = [*[""] * 12, *HTTP]
"""How a message comes: over gRPC, or the content type over HTTP, which takes thirty times as long."""

_loop = asyncio.new_event_loop()
_gateway = Gateway(Checked())


def one_input(data: bytes) -> None:
    """One request."""
    if len(data) < 2:
        return
    way, body = WAYS[data[0] % len(WAYS)], data[2:]
    if way:
        _loop.run_until_complete(_over_http(OVER_HTTP[data[1] % len(OVER_HTTP)].name, way, body))
    else:
        _over_grpc(METHODS[data[1] % len(METHODS)], body)


def _over_grpc(method: Method, body: bytes) -> None:
    try:
        check(method.message.FromString(body))
    except DecodeError:
        _told(MalformedRequestError("the request is not a message of this method's type"))
    except Exception as error:
        _told(error)


def _told(error: Exception) -> None:
    """The caller's own fault, and a status that fits."""
    failure = failure_of(error)
    if failure.code is grpc.StatusCode.INTERNAL:
        raise error
    assert failure.reason
    assert failure.status().ByteSize() <= STATUS_BYTES


async def _over_http(method: str, content: str, body: bytes) -> None:
    headers = [(b"content-type", content.encode()), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": f"/{SERVICE.full_name}/{method}", "raw_path": b"", "query_string": b"", "root_path": "",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # the caller stays
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await _gateway(scope, receive, send)
    status = sent[0]["status"]
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    assert status in FINE, (status, answer)
    if status != 200 and content in ("application/json", "application/proto"):
        assert json.loads(answer)["code"] not in ("internal", "unknown", "data_loss"), answer


def repaired(data: bytes) -> bytes:
    """A gRPC-Web body with the right length before its message; anything else as it is."""
    if len(data) < 8 or "grpc-web" not in WAYS[data[0] % len(WAYS)]:
        return data
    return data[:3] + (len(data) - 7).to_bytes(4, "big") + data[7:]


_PICTURE = b"\xff\xd8\xff"
MESSAGES: dict[str, tuple[int, Message]] = {
    "caption": (0, pb.CaptionImageRequest(
        image=_PICTURE, model="tiny", beam_size=7, max_words=20, captions=3, length_power=0.2, include_attention=True)),
    "caption-odd": (0, pb.CaptionImageRequest(beam_size=-1, max_words=2**31 - 1, length_power=float("nan"))),
    "answer": (1, pb.AnswerQuestionRequest(
        image=_PICTURE, model="tiny@0", question="What colour is the dog?", top=20, candidates=["red", "2"],
        include_attention=True)),
    "answer-dialog": (1, pb.AnswerQuestionRequest(
        question="is it?", history=[pb.Exchange(question="what", answer="a dog"), pb.Exchange(answer="\N{DOG}")])),
    "draw": (2, pb.DrawAttentionRequest(image=_PICTURE, beam_size=3, question="what is it?")),
    "stream": (3, pb.StreamCaptionImagesRequest(id="1", request=pb.CaptionImageRequest(captions=1))),
}  # fmt: skip


def _seeds() -> dict[str, bytes]:
    seeds = {}
    for name, (method, message) in MESSAGES.items():
        wire = message.SerializeToString()
        framed = b"\0" + len(wire).to_bytes(4, "big") + wire
        for way, body in enumerate([wire, json_format.MessageToJson(message).encode(), wire, framed, framed], 11):
            seeds[f"{name}-{way}"] = bytes([way, method]) + body
    return seeds


SEEDS = _seeds()
