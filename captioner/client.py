"""Captions from a server: `Client("127.0.0.1:50051").caption(photo)`. Needs the extra captioner[serve]; no engine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from captioner.config import SearchOptions
from captioner.images import ImageLimits
from captioner.results import Caption, Word
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc

MESSAGE_BYTES = 20 * 2**20
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "captioner.v1.CaptionService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "loadBalancingConfig": [{"round_robin": {}}],
}
CHANNEL_OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    # A message that does not fit here is sent once and never again; the default of 256 KiB holds hardly any photo.
    ("grpc.per_rpc_retry_buffer_size", MESSAGE_BYTES),
]


class ClientError(Exception):
    """A call that failed."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        violations: dict[str, str] | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}")
        self.code = code
        self.reason = reason
        """UPPER_SNAKE, listed in the proto; "" if gRPC itself ended the call: no server, deadline, message size."""
        self.message = message
        self.violations = violations or {}
        """Field of the request -> what is wrong with it."""
        self.retry_after = retry_after
        """Seconds to wait before another attempt; None if the server did not say."""


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
    image_limits: ImageLimits = field(default_factory=ImageLimits)


class Client:
    """A connection to a server; close it, or use it in a with statement. Any number of threads may share one."""

    def __init__(self, target: str = "127.0.0.1:50051", timeout: float = 10.0):
        """Connect at the first call. The timeout is the deadline of a call in seconds, retries included."""
        self.timeout = timeout
        self._channel = grpc.insecure_channel(target, CHANNEL_OPTIONS)
        self._stub: Any = captioner_pb2_grpc.CaptionServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def caption(
        self,
        photo: bytes | str | Path,
        *,
        beam_size: int | None = None,
        max_words: int | None = None,
        captions: int | None = None,
        length_power: float | None = None,
        attention: bool = False,
        model: str = "",
        timeout: float | None = None,
    ) -> list[Caption]:
        """Captions of a photo (the bytes of a file, or its path), best first; ClientError if the call fails."""
        request = pb.CaptionImageRequest(
            image=photo if isinstance(photo, bytes) else Path(photo).read_bytes(),
            model=model,
            beam_size=beam_size,
            max_words=max_words,
            captions=captions,
            length_power=length_power,
            include_attention=attention,
        )
        response = self._call(self._stub.CaptionImage, request, timeout)
        return [_caption(caption) for caption in response.captions]

    def model(self, name: str = "", timeout: float | None = None) -> ServedModel:
        """The served model and what it accepts; ClientError if the call fails."""
        served: pb.Model = self._call(self._stub.GetModel, pb.GetModelRequest(model=name), timeout).model
        return ServedModel(
            name=served.name,
            version=served.version,
            precision=served.precision,
            provider=served.provider,
            vocabulary_size=served.vocabulary_size,
            has_attention=served.has_attention,
            search_defaults=_options(served.search_defaults),
            search_maxima=_options(served.search_maxima),
            image_limits=ImageLimits(
                max_bytes=served.image_limits.max_bytes,
                max_pixels=served.image_limits.max_pixels,
                min_side=served.image_limits.min_side,
                max_side=served.image_limits.max_side,
                max_aspect=served.image_limits.max_aspect,
            ),
        )

    def close(self) -> None:
        """Cancel the calls in flight and disconnect."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self.timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise _client_error(error) from error


def _client_error(error: Any) -> ClientError:
    reason, violations, retry_after = "", {}, None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            violations = {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return ClientError(error.code(), reason, error.details() or "", violations, retry_after)


def _caption(caption: pb.Caption) -> Caption:
    return Caption(caption.text, caption.log_prob, caption.score, tuple(_word(word) for word in caption.words))


def _word(word: pb.Word) -> Word:
    attention = None
    if word.HasField("attention"):
        shape = word.attention.rows, word.attention.columns
        attention = np.array(word.attention.weights, np.float32).reshape(shape)
    return Word(word.text, word.log_prob, attention)


def _options(options: pb.SearchOptions) -> SearchOptions:
    return SearchOptions(options.beam_size, options.max_words, options.captions, options.length_power)
