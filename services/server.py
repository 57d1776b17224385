"""A gRPC server around the models: CaptionService, health and reflection, from the first warm-up to the last answer."""

from __future__ import annotations

import asyncio
import logging
import signal
from time import monotonic
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from captioner.v1 import captioner_pb2, captioner_pb2_grpc
from services.admission import Admission, State
from services.caption_service import CaptionService
from services.interceptors import CallInterceptor, Watcher
from services.json_log import AccessLog
from services.metrics import Metrics
from services.models import Models
from services.security import Certificates, SecurityError, Tokens, warn_of_openness
from services.settings import ServerSettings

log = logging.getLogger(__name__)

SERVICE = captioner_pb2.DESCRIPTOR.services_by_name["CaptionService"].full_name
# Above the largest picture (16 MiB), so that a picture a little too large gets an answer that says so.
MESSAGE_BYTES = 20 * 2**20
METADATA_BYTES = 8 * 2**10
# Server-wide, health checks included: a backstop far above max_queue, which is what sheds load.
MAX_CALLS = 1000
FLUSH_SECONDS = 1.0
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on the port fails instead of taking half of its calls
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),  # between the two, calls would be refused by chance
    ("grpc.max_concurrent_streams", 256),  # of one connection; its next calls wait at the caller
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 3_600_000),
    ("grpc.keepalive_time_ms", 60_000),  # callers that vanished are found, and their work is dropped
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # who pings more often is cut off
    ("grpc.http2.max_ping_strikes", 2),
]


class ListenError(OSError):
    """The address is taken or is not ours."""


class Server:
    """start(), warm_up(), then drain(); make it inside a running event loop.

    Raises SecurityError where the tokens or certificates of the settings cannot be used.
    """

    def __init__(
        self,
        models: Models,
        settings: ServerSettings,
        max_queue: int,
        metrics: Metrics | None = None,
        watchers: tuple[Watcher, ...] = (),
    ):
        """metrics: those that the models tell, too. watchers: told of calls, besides the metrics and the log."""
        self.models, self.settings = models, settings
        self.metrics = metrics or Metrics()
        self.admission = Admission(max_queue)
        loop = asyncio.get_running_loop()
        self.metrics.read_from(lambda: self.admission.admitted, lambda: len(asyncio.all_tasks(loop)))
        self.health = health.HealthServicer()
        self.service = CaptionService(models, self.admission)
        self.tokens = None if settings.tokens_file is None else Tokens(settings.tokens_file)
        self.certificates = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            self.certificates = Certificates(settings.tls_certificate, settings.tls_key, settings.client_ca)
        self.calls = CallInterceptor(self.tokens, (self.metrics, AccessLog(), *watchers))
        self.metrics_port: int | None = None
        self.web_port: int | None = None
        self._pages: Any = None
        self._web: Any = None
        self._reloading = asyncio.Lock()
        self._server = grpc.aio.server(interceptors=[self.calls], options=OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        add = captioner_pb2_grpc.add_CaptionServiceServicer_to_server
        add(self.service, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> int:
        """Listen, and answer NOT_SERVING; returns the port. ListenError if it cannot."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        warn_of_openness(self.settings)
        port = self._listen()
        await self._server.start()
        security = "TLS" if self.certificates else "no TLS"
        asked = f"{len(self.tokens)} tokens" if self.tokens else "no tokens"
        log.info("%s, %s, listening on %s", security, asked, self._address(port))
        await self._start_pages()
        return port

    def _listen(self) -> int:
        address = self._address(self.settings.port)
        try:
            if self.certificates is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, self.certificates.credentials()))
        except RuntimeError as error:
            raise _taken(address) from error

    async def _start_pages(self) -> None:
        """Metrics and the web page, if they are wanted."""
        settings = self.settings
        if settings.metrics_port is not None:
            try:
                self._pages = self.metrics.serve(settings.host, settings.metrics_port)
            except OSError as error:
                raise _taken(self._address(settings.metrics_port)) from error
            self.metrics_port = self._pages.server_port
            log.info("metrics on http://%s/metrics", self._address(self._pages.server_port))
        if settings.web_port is not None:
            try:
                from services.gateway import serve_web
            except ImportError as error:
                raise ImportError(f"the web page needs the extra captioner[web]: {error}") from error
            try:
                self._web = await serve_web(self.service, settings, settings.web_port, [self.calls])
            except OSError as error:
                raise _taken(self._address(settings.web_port)) from error
            self.web_port = self._web.port
            scheme = "http" if self.certificates is None else "https"
            log.info("web page on %s://%s", scheme, self._address(self._web.port))

    async def warm_up(self) -> None:
        """Open and warm up the models, then answer SERVING. LoadError if one cannot be served."""
        await self.models.load_all()
        self.admission.open()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._tell_models()

    async def reload(self) -> bool:
        """Read models, tokens and certificates again; whatever cannot be used stays as it was. False if any did."""
        async with self._reloading:
            log.info("reloading")
            reasons: list[Exception] = []
            for part in (self.tokens, self.certificates):
                try:
                    if part is not None:
                        part.reload()
                except SecurityError as error:
                    reasons.append(error)
            try:
                if self._web is not None:
                    self._web.reload()
            except OSError as error:
                reasons.append(error)
            if (failure := await self.models.reload()) is not None:
                reasons.append(failure)
            for reason in reasons:
                log.error("not reloaded: %s", reason)
            self.metrics.reloads.labels("failed" if reasons else "ok").inc()
            self._tell_models()
            return not reasons

    async def drain(self) -> None:
        """Answer NOT_SERVING, finish what was let in, stop."""
        log.info("draining")
        await self.health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.notice_seconds)
        end = monotonic() + self.settings.grace_seconds
        self.service.closing.set()
        finished = await self.admission.drained(self.settings.grace_seconds)
        try:
            # Answers that are still being written, and streams that have some.
            await asyncio.wait_for(self.calls.idle.wait(), max(FLUSH_SECONDS, end - monotonic()))
        except TimeoutError:
            finished = False
        if not finished:
            log.warning("calls were cut off after %g s", self.settings.grace_seconds)
        # A health watch never ends by itself, so this may use all of its grace.
        await self._server.stop(FLUSH_SECONDS)
        await self._close()
        log.info("stopped")

    async def _close(self) -> None:
        if self._web is not None:
            await self._web.close()
        if self._pages is not None:
            await asyncio.to_thread(self._pages.shutdown)
            self._pages.server_close()
        self.service.close()
        await self.models.close()

    async def _set_health(self, status: int) -> None:
        # "" stands for the server as a whole.
        for name in (SERVICE, ""):
            await self.health.set(name, status)

    def _tell_models(self) -> None:
        captioners = [engine.captioner for engine in self.models.engines]
        self.metrics.models(captioners)
        for captioner in captioners:
            bundle = captioner.bundle
            log.info("serving %s %s, %s on %s", bundle.name, bundle.version, captioner.precision, captioner.provider)

    def _address(self, port: int) -> str:
        host = self.settings.host
        return f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}"


def _taken(address: str) -> ListenError:
    return ListenError(f"cannot listen on {address}: it is taken, or not an address of this machine")


async def serve(server: Server) -> None:
    """Serve until SIGTERM or SIGINT, then drain; SIGHUP reloads. ListenError, or LoadError of the first models."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        if server.admission.state is State.LOADING:
            log.warning("still loading: nothing is reloaded")
            return
        task = loop.create_task(server.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await server.start()
    stopped = loop.create_task(stop.wait())
    warm = loop.create_task(server.warm_up())
    try:
        await asyncio.wait({stopped, warm}, return_when=asyncio.FIRST_COMPLETED)
        if warm.done():
            warm.result()
            await stopped
    finally:
        for task in (stopped, warm, *reloads):
            task.cancel()
        await server.drain()
