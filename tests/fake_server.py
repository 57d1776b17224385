"""Servers that fail on demand, for the client: no model, one step of a plan per call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_status import rpc_status

from captioner.client_calls import MESSAGE_BYTES
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.errors import Failure

OK = Failure(grpc.StatusCode.OK, "")
UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE, "LOADING", retry_after=1.0, message="not now")
FULL = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=0.05, message="full")
BROKEN = Failure(grpc.StatusCode.INTERNAL, "INTERNAL", message="broken")


class Planned(captioner_pb2_grpc.CaptionServiceServicer):
    """Goes through a plan, one step a call, then always answers; the one caption is how many bytes the photo had."""

    def __init__(self, *plan: Failure):
        self.plan = list(plan)
        self.metadata: list[dict[str, Any]] = []
        """Of each call."""
        self.running = self.most_running = 0
        self.gate = threading.Event()
        """Calls wait for it."""
        self.gate.set()
        self._lock = threading.Lock()

    @property
    def calls(self) -> int:
        """How many came."""
        return len(self.metadata)

    def CaptionImage(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Follow the plan."""
        with self._lock:
            self.metadata.append(dict(context.invocation_metadata()))
            step = self.plan.pop(0) if self.plan else OK
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self.gate.wait(20)
            if step is not OK:
                context.abort_with_status(rpc_status.to_status(step.status()))
            return _captioned(request)
        finally:
            with self._lock:
                self.running -= 1

    def StreamCaptionImages(self, requests: Any, context: Any) -> Any:  # noqa: N802
        """Answer in pairs, the later first; a photo of no bytes fails alone, a step of the plan ends the stream."""
        self.metadata.append(dict(context.invocation_metadata()))
        waiting = []
        for request in requests:
            if self.plan:
                context.abort_with_status(rpc_status.to_status(self.plan.pop(0).status()))
            response = pb.StreamCaptionImagesResponse(id=request.id)
            if request.request.image:
                response.response.CopyFrom(_captioned(request.request))
            else:
                response.error.ParseFromString(BROKEN.status().SerializeToString())
            waiting.append(response)
            if len(waiting) == 2:
                yield from reversed(waiting)
                waiting = []
        yield from waiting


def _captioned(request: Any) -> Any:
    return pb.CaptionImageResponse(captions=[pb.Caption(text=str(len(request.image)))])


@contextmanager
def listening(servicer: Planned, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """HOST:PORT of a server with this servicer."""
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", MESSAGE_BYTES)])
        captioner_pb2_grpc.add_CaptionServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        anywhere = "127.0.0.1:0"
        if credentials is None:
            port = server.add_insecure_port(anywhere)
        else:
            port = server.add_secure_port(anywhere, credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            servicer.gate.set()
            server.stop(None).wait()
