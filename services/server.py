"""A gRPC server around one model: CaptionService, health and reflection, from the first warm-up to the last answer."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from captioner import Captioner
from captioner.v1 import captioner_pb2, captioner_pb2_grpc
from services.caption_service import CaptionService
from services.worker import Worker

log = logging.getLogger(__name__)

SERVICE = captioner_pb2.DESCRIPTOR.services_by_name["CaptionService"].full_name
# Above the largest picture (16 MiB), so that a picture a little too large gets an answer that says so.
MESSAGE_BYTES = 20 * 2**20
# Server-wide, health checks included: a backstop far above max_queue, which is what sheds load.
MAX_CALLS = 1000
FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class ServerSettings:
    """Where to listen and how to stop."""

    host: str = "127.0.0.1"
    port: int = 50051
    """0 takes a free one."""
    max_queue: int = 32
    """Pictures let in at a time, waiting or being captioned; one more is refused."""
    notice_seconds: float = 1.0
    """How long calls are still answered after health turned NOT_SERVING, for balancers to look elsewhere."""
    grace_seconds: float = 30.0
    """How long a drain waits for the calls in flight before it cuts them off."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be in [0, 65535], got {self.port}")
        if self.max_queue < 1:
            raise ValueError(f"max_queue must be at least 1, got {self.max_queue}")


class ListenError(OSError):
    """The address is taken or is not ours."""


class Server:
    """start(), warm_up(), then drain(); make it inside a running event loop."""

    def __init__(self, captioner: Captioner, settings: ServerSettings):
        self.settings = settings
        self.worker = Worker(captioner, settings.max_queue)
        self.health = health.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),  # a second server on the port fails instead of taking half of its calls
            ],
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        add = captioner_pb2_grpc.add_CaptionServiceServicer_to_server
        add(CaptionService(self.worker), self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> int:
        """Listen, and answer NOT_SERVING; returns the port. ListenError if it cannot."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        address = f"{self.settings.host}:{self.settings.port}"
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {address}: it is taken, or not an address of this machine") from error
        await self._server.start()
        log.info("listening on %s:%d", self.settings.host, port)
        return port

    async def warm_up(self) -> None:
        """Caption once, then answer SERVING."""
        await self.worker.warm_up()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        captioner = self.worker.captioner
        bundle = captioner.bundle
        log.info("serving %s %s, %s on %s", bundle.name, bundle.version, captioner.precision, captioner.provider)

    async def drain(self) -> None:
        """Answer NOT_SERVING, finish what was let in, stop."""
        log.info("draining")
        await self.health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.notice_seconds)
        if not await self.worker.drain(self.settings.grace_seconds):
            log.warning("calls were cut off after %g s", self.settings.grace_seconds)
        # A health watch or a reflection stream never ends by itself, so this may use all of its grace.
        await self._server.stop(FLUSH_SECONDS)
        self.worker.close()
        log.info("stopped")

    async def _set_health(self, status: int) -> None:
        # "" stands for the server as a whole.
        for name in (SERVICE, ""):
            await self.health.set(name, status)


async def serve(captioner: Captioner, settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(captioner, settings)
    await server.start()
    try:
        await server.warm_up()
        await stop.wait()
    finally:
        await server.drain()
