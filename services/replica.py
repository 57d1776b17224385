"""One copy of the server on a Ray cluster: the servicer, engines, errors, tokens and log of services.server, called by
Ray Serve's proxy where gRPC calls them there. services.cluster deploys it and says what the proxy cannot do.

Ray loses the details of a status that is raised, so that a unary method sets its status on Ray's context and returns an
empty response. A stream has to raise: what ends a whole stream arrives as code and message only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
from grpc_health.v1 import health_pb2
from PIL import Image

from captioner.query import Query
from captioner.v1 import captioner_pb2 as pb
from services import json_log
from services.admission import Admission, State
from services.caption_service import CaptionService
from services.engine import Engine
from services.errors import NotReadyError
from services.interceptors import REQUEST_ID, Call, CallInterceptor
from services.models import Models
from services.proxy import TIME_LEFT
from services.security import Tokens
from services.server import SERVICE
from services.settings import EngineSettings

T = TypeVar("T")


class Context:
    """What the servicer and services.interceptors ask of a grpc.aio.ServicerContext, over Ray's own context."""

    def __init__(self, ray_context: Any):
        self._ray = ray_context

    def invocation_metadata(self) -> Sequence[tuple[str, Any]]:
        """The caller's."""
        return tuple(self._ray.invocation_metadata())

    def peer(self) -> str:
        """Where the caller is, as the proxy sees it."""
        return str(self._ray.peer())

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, when the proxy passed the call on; None without one."""
        return next((float(value) for key, value in self.invocation_metadata() if key == TIME_LEFT), None)

    def code(self) -> Any:
        """The status so far."""
        return self._ray.code()

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the call with an error."""
        self._ray.set_code(code)
        self._ray.set_details(details)
        self._ray.set_trailing_metadata(list(trailing_metadata))
        raise grpc.aio.AbortError


class Replica:
    """What Ray Serve makes on the machines of a cluster, and calls. Ray awaits __init__, check_health and __del__."""

    async def __init__(self, bundles: Sequence[Path], engine: EngineSettings, tokens: Path | None = None):  # type: ignore[misc]
        """Load the bundles and warm them up; LoadError or SecurityError where they or the tokens cannot be used."""
        self._log = json_log.set_up(as_json=True)
        self._admission = Admission(engine.max_queue)
        self._models = Models(bundles, engine)
        self._service = CaptionService(self._models, self._admission)
        self._tokens = None if tokens is None else Tokens(tokens)
        self._calls = CallInterceptor(watchers=(json_log.AccessLog(),))
        await self._models.load_all()
        self._admission.open()

    async def CaptionImage(self, request: Any, grpc_context: Any) -> pb.CaptionImageResponse:  # noqa: N802
        """See the proto, as for the others."""
        return await self._unary("CaptionImage", request, grpc_context, pb.CaptionImageResponse())

    async def AnswerQuestion(self, request: Any, grpc_context: Any) -> pb.AnswerQuestionResponse:  # noqa: N802
        return await self._unary("AnswerQuestion", request, grpc_context, pb.AnswerQuestionResponse())

    async def DrawAttention(self, request: Any, grpc_context: Any) -> pb.DrawAttentionResponse:  # noqa: N802
        return await self._unary("DrawAttention", request, grpc_context, pb.DrawAttentionResponse())

    async def GetModel(self, request: Any, grpc_context: Any) -> pb.GetModelResponse:  # noqa: N802
        return await self._unary("GetModel", request, grpc_context, pb.GetModelResponse())

    async def ListModels(self, request: Any, grpc_context: Any) -> pb.ListModelsResponse:  # noqa: N802
        return await self._unary("ListModels", request, grpc_context, pb.ListModelsResponse())

    async def StreamCaptionImages(  # noqa: N802
        self, requests: AsyncIterator[Any], grpc_context: Any
    ) -> AsyncGenerator[pb.StreamCaptionImagesResponse, None]:
        context = Context(grpc_context)
        async with (
            self._watched("StreamCaptionImages", context),
            aclosing(self._service.StreamCaptionImages(requests, context)) as responses,  # type: ignore[type-var]
        ):
            async for response in responses:
                yield response

    async def Check(self, request: Any, grpc_context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """grpc.health.v1: whether the proxy reaches a replica at all."""
        if request.service not in ("", SERVICE):
            grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
            return health_pb2.HealthCheckResponse()
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def Watch(self, request: Any, grpc_context: Any) -> AsyncGenerator[Any, None]:  # noqa: N802
        """Refused: it would hold a place of a replica for ever, and one replica does not speak for all."""
        grpc_context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        grpc_context.set_details("Watch is not served here, Check is")
        raise NotImplementedError
        yield  # a generator, as Ray expects of a stream

    async def check_health(self) -> None:
        """Ask every model something: Ray replaces a replica where that fails, or takes too long, three times."""
        if self._admission.state is not State.SERVING:
            raise NotReadyError(self._admission.state.name)
        await asyncio.gather(*(_ask(engine) for engine in self._models.engines))

    async def __del__(self) -> None:
        """Once no call is left, or the time for them is over."""
        self._service.closing.set()
        self._admission.state = State.DRAINING
        self._service.close()
        await self._models.close()
        self._log.close()

    async def _unary(self, method: str, request: Any, grpc_context: Any, empty: T) -> T:
        context = Context(grpc_context)
        try:
            async with self._watched(method, context) as call:
                response: T = await getattr(self._service, method)(request, context)
                grpc_context.set_trailing_metadata([(REQUEST_ID, call.request_id)])
                return response
        except grpc.aio.AbortError:
            return empty

    @asynccontextmanager
    async def _watched(self, method: str, context: Context) -> AsyncIterator[Call]:
        """Around the work of one call: what services.interceptors does, the token first."""
        metadata = context.invocation_metadata()
        async with self._calls.watch(f"/{SERVICE}/{method}", metadata, "", context) as call:
            if self._tokens is not None:
                call.caller = self._tokens.check(metadata)
            yield call


async def _ask(engine: Engine) -> None:
    """Have a grey picture captioned, or a question about it answered, between the calls of others."""
    captioner = engine.captioner
    shape, file = captioner.bundle.model.preprocessing, BytesIO()
    Image.new("RGB", (shape.width, shape.height), "grey").save(file, "PNG")
    if captioner.bundle.model.captions:
        await engine.caption(file.getvalue(), captioner.options(beam_size=1, captions=1))
    else:
        await engine.answer(
            file.getvalue(), Query("what is this", candidates=() if captioner.bundle.answers else ("yes", "no"))
        )
