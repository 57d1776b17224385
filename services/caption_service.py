"""captioner.v1.CaptionService: translates, and nothing else."""

from __future__ import annotations

import grpc

from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services import translation
from services.errors import answers_errors
from services.worker import Worker


class CaptionService(captioner_pb2_grpc.CaptionServiceServicer):
    """One model behind the contract."""

    def __init__(self, worker: Worker):
        self.worker = worker

    @answers_errors
    async def CaptionImage(  # noqa: N802
        self, request: pb.CaptionImageRequest, context: grpc.aio.ServicerContext
    ) -> pb.CaptionImageResponse:
        """See the proto."""
        captioner = self.worker.captioner
        translation.check_model(request.model, captioner.bundle)
        options = translation.search_options(request, captioner)
        outcome = await self.worker.caption(request.image, options)
        return translation.caption_response(outcome, captioner.bundle, request.include_attention)

    @answers_errors
    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetModelResponse:
        """See the proto."""
        translation.check_model(request.model, self.worker.captioner.bundle)
        return pb.GetModelResponse(model=translation.model(self.worker.captioner))
