"""The five kinds of callers, over gRPC. They are cheap: what they take is missing to a server on the same machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from time import monotonic
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from captioner.client_calls import MESSAGE_BYTES
from captioner.connection import Tls
from captioner.throttle import THROTTLED, Throttle
from captioner.v1 import captioner_pb2 as pb
from services.load.photos import Photos
from services.load.records import NOT_SENT, STAGES, Ended
from services.load.schedule import Kind

SERVICE = f"/{pb.DESCRIPTOR.services_by_name['CaptionService'].full_name}"
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # or all channels to a server would share a connection
    ("grpc.enable_retries", 0),  # each call is counted once
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
]
USUAL_SECONDS = 0.1
"""How long a call takes, as long as none was answered."""


@dataclass(frozen=True)
class Asking:
    """What is asked about the pictures."""

    beam_size: int = 7
    question: str = "what is this?"
    model: str = ""
    slow_pictures: int = 4
    """That a slow caller sends, one by one in a stream."""
    slow_pause: float = 0.5
    """Seconds between them."""


class Callers:
    """Connections to servers, which take turns; make it in a running event loop, and close it."""

    def __init__(
        self,
        servers: Sequence[str],
        photos: Photos,
        asking: Asking | None = None,
        channels: int = 2,
        tls: Tls | None = None,
        token: str | None = None,
        throttle: float | None = None,
    ):
        """servers: HOST:PORT each; channels: connections to each; throttle: see captioner.throttle."""
        self._throttle = Throttle(throttle)
        self.photos, self.asking = photos, asking or Asking()
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._random, self._usual = Random(0), USUAL_SECONDS
        credentials = None if tls is None else tls.credentials()
        self._channels = [
            grpc.aio.insecure_channel(server, OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(server, credentials, OPTIONS)
            for _ in range(channels)
            for server in servers
        ]
        # Without (de)serialisers: bytes in, bytes out.
        self._caption = cycle([channel.unary_unary(f"{SERVICE}/CaptionImage") for channel in self._channels])
        self._question = cycle([channel.unary_unary(f"{SERVICE}/AnswerQuestion") for channel in self._channels])
        self._stream = cycle([channel.stream_stream(f"{SERVICE}/StreamCaptionImages") for channel in self._channels])

    async def close(self) -> None:
        """Disconnect."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def own_seconds(self, kind: Kind) -> float:
        """How long a caller takes by itself until it has sent everything."""
        return self.asking.slow_pause * (self.asking.slow_pictures - 1) if kind == "slow" else 0.0

    async def call(self, kind: Kind, until: float) -> Ended:
        """Make a call; until: time.monotonic() of its deadline."""
        if kind == "question":
            return await self._ask(until)
        if kind == "slow":
            return await self._send_slowly(until)
        if kind == "bad":
            return await self._send(next(self._caption), self._request(self.photos.nonsense()), _captioned, until)
        if kind == "cancel":
            try:
                async with asyncio.timeout(self._usual * self._random.random()):
                    return await self.caption(until)
            except TimeoutError:
                return Ended("CANCELLED")
        begin = monotonic()
        ended = await self.caption(until)
        if ended.code == "OK":
            self._usual += 0.1 * (monotonic() - begin - self._usual)
        return ended

    async def caption(self, until: float) -> Ended:
        """Captions of the next picture."""
        return await self._send(next(self._caption), self._request(self.photos.next()), _captioned, until)

    async def model(self, seconds: float = 30.0) -> pb.Model:
        """What the first server serves, once it is up; raises grpc.RpcError."""
        get = self._channels[0].unary_unary(f"{SERVICE}/GetModel")
        request = pb.GetModelRequest(model=self.asking.model).SerializeToString()
        data = await get(request, timeout=seconds, metadata=self._metadata, wait_for_ready=True)
        return pb.GetModelResponse.FromString(data).model

    def _request(self, image: bytes) -> bytes:
        asking = self.asking
        request = pb.CaptionImageRequest(image=image, beam_size=asking.beam_size, model=asking.model)
        return request.SerializeToString()

    async def _ask(self, until: float) -> Ended:
        asking = self.asking
        request = pb.AnswerQuestionRequest(image=self.photos.next(), question=asking.question, model=asking.model)
        return await self._send(next(self._question), request.SerializeToString(), _answered, until)

    async def _send(self, method: Any, request: bytes, read: Callable[[bytes], Ended], until: float) -> Ended:
        if (left := until - monotonic()) <= 0:
            return Ended(NOT_SENT, "LATE")
        if self._throttle.refuses():
            return Ended("RESOURCE_EXHAUSTED", THROTTLED)
        try:
            ended = read(await method(request, timeout=left, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            ended = Ended(error.code().name, _reason(error))
        self._throttle.ended(ended.reason)
        return ended

    async def _send_slowly(self, until: float) -> Ended:
        """The first picture that fails is what the call ended with."""
        if (left := until - monotonic()) <= 0:
            return Ended(NOT_SENT, "LATE")

        async def requests() -> AsyncIterator[bytes]:
            for number in range(self.asking.slow_pictures):
                if number:
                    await asyncio.sleep(self.asking.slow_pause)
                request = pb.CaptionImageRequest.FromString(self._request(self.photos.next()))
                yield pb.StreamCaptionImagesRequest(id=str(number), request=request).SerializeToString()

        answered, failure = 0, None
        try:
            async for data in next(self._stream)(requests(), timeout=left, metadata=self._metadata):
                response = pb.StreamCaptionImagesResponse.FromString(data)
                if response.WhichOneof("outcome") == "response":
                    answered += 1
                elif failure is None:
                    code = next((c.name for c in grpc.StatusCode if c.value[0] == response.error.code), "UNKNOWN")
                    failure = Ended(code, _reason_in(response.error.details))
        except grpc.aio.AioRpcError as error:
            failure = Ended(error.code().name, _reason(error))
        failure = failure or Ended("OK")
        return Ended(failure.code, failure.reason, answered)


def _captioned(data: bytes) -> Ended:
    return Ended("OK", "", 1, _stages(pb.CaptionImageResponse.FromString(data).stage_durations))


def _answered(data: bytes) -> Ended:
    return Ended("OK", "", 1, _stages(pb.AnswerQuestionResponse.FromString(data).stage_durations))


def _stages(durations: pb.StageDurations) -> tuple[float, ...]:
    return tuple(_seconds(getattr(durations, stage)) for stage in STAGES)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _reason(error: grpc.aio.AioRpcError) -> str:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # code and details contradict each other
        return ""
    return "" if status is None else _reason_in(status.details)


def _reason_in(details: Any) -> str:
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in details if detail.Unpack(info)), "")
