"""captioner.v1.CaptionService: translates, and nothing else.

Methods raise plain exceptions: services.interceptors turns them into statuses, by the table in services.errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from functools import partial
from time import monotonic

import grpc

from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services import translation
from services.admission import Admission, State
from services.drawing import draw
from services.engine import Engine, Outcome
from services.errors import NotReadyError
from services.interceptors import current_call
from services.models import Models
from services.stream import as_finished

READ_AHEAD = 16
"""Pictures of one stream at a time."""


class CaptionService(captioner_pb2_grpc.CaptionServiceServicer):
    """The models behind the contract."""

    def __init__(self, models: Models, admission: Admission):
        self.models, self.admission = models, admission
        self.closing = asyncio.Event()
        """Once set, streams read no more."""
        self._artist = ThreadPoolExecutor(1, "draw")

    async def CaptionImage(  # noqa: N802
        self, request: pb.CaptionImageRequest, context: grpc.aio.ServicerContext
    ) -> pb.CaptionImageResponse:
        """See the proto."""
        return await self._caption(request, _deadline(context))

    async def AnswerQuestion(  # noqa: N802
        self, request: pb.AnswerQuestionRequest, context: grpc.aio.ServicerContext
    ) -> pb.AnswerQuestionResponse:
        """See the proto."""
        deadline = _deadline(context)
        current_call().picture(request.image)
        with self._model(request.model) as engine:
            query = translation.query(request, engine.captioner)
            with self.admission.enter():
                outcome = await engine.answer(request.image, query, deadline)
        _note(outcome)
        return translation.answer_response(outcome, engine.captioner.bundle, request.include_attention)

    async def StreamCaptionImages(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamCaptionImagesRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamCaptionImagesResponse]:
        """See the proto."""
        self._check_ready()
        picture = partial(self._picture, deadline=_deadline(context))
        results = as_finished(request_iterator, picture, READ_AHEAD, self.closing)
        async with aclosing(results):
            async for response in results:
                yield response

    async def DrawAttention(  # noqa: N802
        self, request: pb.DrawAttentionRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrawAttentionResponse:
        """See the proto."""
        deadline = _deadline(context)
        current_call().picture(request.image)
        with self._model(request.model) as engine:
            captioner = engine.captioner
            query = translation.query(request, captioner) if request.question else None
            options = None if query else translation.search_options(request, captioner)
            with self.admission.enter():
                if query:
                    outcome = await engine.answer(request.image, query, deadline)
                else:
                    assert options is not None
                    outcome = await engine.caption(request.image, options, deadline)
                png = await asyncio.get_running_loop().run_in_executor(
                    self._artist, draw, request.image, request.question, outcome, captioner.limits
                )
        _note(outcome)
        return translation.draw_response(png, outcome, captioner.bundle)

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetModelResponse:
        """See the proto."""
        with self._model(request.model) as engine:
            return pb.GetModelResponse(model=translation.model(engine.captioner))

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        """See the proto."""
        self._check_ready()
        return pb.ListModelsResponse(models=[translation.model(engine.captioner) for engine in self.models.engines])

    def close(self) -> None:
        """Draw no more."""
        self._artist.shutdown(wait=False, cancel_futures=True)

    async def _caption(self, request: pb.CaptionImageRequest, deadline: float | None) -> pb.CaptionImageResponse:
        current_call().picture(request.image)
        with self._model(request.model) as engine:
            options = translation.search_options(request, engine.captioner)
            with self.admission.enter():
                outcome = await engine.caption(request.image, options, deadline)
        _note(outcome)
        return translation.caption_response(outcome, engine.captioner.bundle, request.include_attention)

    async def _picture(
        self, request: pb.StreamCaptionImagesRequest, deadline: float | None
    ) -> pb.StreamCaptionImagesResponse:
        """What became of one picture; NotReadyError is the stream's."""
        try:
            translation.check_id(request)
            response = await self._caption(request.request, deadline)
            return pb.StreamCaptionImagesResponse(id=request.id, response=response)
        except NotReadyError:
            raise
        except Exception as error:
            status = current_call().fail(error)
            failure = pb.PictureError(code=status.code, message=status.message, details=status.details)
            return pb.StreamCaptionImagesResponse(id=translation.short_id(request.id), error=failure)

    def _check_ready(self) -> None:
        if self.admission.state is not State.SERVING:
            raise NotReadyError(self.admission.state.name)

    @contextmanager
    def _model(self, name: str) -> Iterator[Engine]:
        """The engine of a model, which stays open until the block ends."""
        self._check_ready()
        with self.models.use(name) as engine:
            bundle = engine.captioner.bundle
            current_call().model = f"{bundle.name}@{bundle.version}"
            yield engine


def _deadline(context: grpc.aio.ServicerContext) -> float | None:
    """By time.monotonic(); None without one."""
    left = context.time_remaining()
    return None if left is None else monotonic() + left


def _note(outcome: Outcome) -> None:
    """For the trace of the call."""
    for stage in ("decode", "encode", "search", "queue"):
        stages = current_call().stages
        stages[stage] = stages.get(stage, 0.0) + getattr(outcome, f"{stage}_seconds")
