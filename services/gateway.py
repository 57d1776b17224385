"""The web page and the contract over HTTP/1.1: one port beside gRPC, in the same process and event loop.

POST /captioner.v1.CaptionService/METHOD takes a message as JSON or protobuf (Connect) or framed (gRPC-Web). Each call
goes through the interceptors of the gRPC server to the same servicer, so that tokens, limits, deadlines, log and errors
are the same. StreamCaptionImages is left to gRPC: browsers cannot send and receive at a time.

The protocols are connectrpc's, on uvicorn. A Connect endpoint of our own would be as fast (it is the messages that take
time: a 3 MB photo 50 to 120 ms as JSON, 10 to 27 ms as protobuf, on a busy machine), start 0.4 s sooner and install
19 MB less, but own the protocol's rules on timeouts and lost callers, and have no gRPC-Web. The page sends protobuf,
because JSON of a large photo keeps the event loop busy.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import socket
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.message_factory import GetMessageClass

from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.interceptors import REQUEST_ID, REQUEST_ID_PATTERN
from services.settings import ServerSettings
from services.web_call import Calls, answer

SERVICE = pb.DESCRIPTOR.services_by_name["CaptionService"]
METHODS = {f"/{SERVICE.full_name}/{method.name}": method for method in SERVICE.methods if not method.client_streaming}
FOLDER = Path(__file__).with_name("web")
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
         ".js": "text/javascript; charset=utf-8"}  # fmt: skip
# What gRPC accepts, 20 MiB, written as base64 in JSON.
MESSAGE_BYTES = 20 * 2**20 * 4 // 3 + 4096
BODY_SECONDS = 60.0
"""How long a caller may take to send its message."""
MAX_CALLS, MAX_CONNECTIONS = 64, 500
"""At a time. Messages are read whole, so that MAX_CALLS bounds their memory; it is above what the engine lets in."""
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

Message = MutableMapping[str, Any]
Receive, Send = Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Web:
    """A gateway that listens."""

    port: int
    _server: uvicorn.Server
    _serving: asyncio.Task[None]

    def reload(self) -> None:
        """Read the certificate files again, for connections from now on. An authority that was taken out of client_ca
        is trusted until the next start. OSError if they cannot be read."""
        config = self._server.config
        if config.ssl is not None and config.ssl_certfile is not None:
            config.ssl.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
            if config.ssl_ca_certs is not None:
                config.ssl.load_verify_locations(config.ssl_ca_certs)

    async def close(self) -> None:
        """Listen no more, finish what was begun (for grace_seconds at most), stop."""
        self._server.should_exit = True
        await self._serving


async def serve_web(
    service: captioner_pb2_grpc.CaptionServiceServicer,
    settings: ServerSettings,
    port: int,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> Web:
    """Serve the page and the contract on settings.host and this port (0 takes a free one), with the server's TLS.

    Raises OSError if it cannot listen there or cannot read the certificate.
    """
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=256)
    server = _Server(
        uvicorn.Config(
            Gateway(service, interceptors),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=max(1, math.ceil(settings.grace_seconds)),
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            ssl_ca_certs=str(settings.client_ca) if settings.client_ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.client_ca else ssl.CERT_NONE,
        )
    )
    try:
        server.config.load()
    except BaseException:
        listener.close()
        raise
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if serving.done():
        await serving
    return Web(listener.getsockname()[1], server, serving)


class _Server(uvicorn.Server):
    """Leaves signals to the process that it is a part of."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


class Gateway:
    """The ASGI application: files of the page by name, everything else to the service."""

    def __init__(
        self,
        service: captioner_pb2_grpc.CaptionServiceServicer,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ):
        self._files = {f"/{path.name}": _File.read(path) for path in FOLDER.iterdir() if path.suffix in TYPES}
        self._files["/"] = self._files["/index.html"]
        self._calls = 0
        self._api = _Api(
            service=None,
            endpoints=lambda _: {path: _endpoint(path) for path in METHODS},
            interceptors=[Calls(service, interceptors)],
            read_max_bytes=MESSAGE_BYTES,
            compressions=(),  # a few bytes could unpack to gigabytes
            codecs=google_protobuf_codecs(),
        )

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(REQUEST_ID, "")
        number = given if REQUEST_ID_PATTERN.fullmatch(given) else uuid.uuid4().hex
        send = _with_headers(send, {**SECURITY, REQUEST_ID: number})
        path, content = scope["path"], headers.get("content-type", "")
        if path in self._files:
            await _send_file(self._files[path], scope["method"], headers, send)
        elif path not in METHODS:
            await _refuse(send, 404, Code.UNIMPLEMENTED, "there is nothing at this address")
        elif not all(value.isascii() for value in headers.values()):
            await _refuse(send, 400, Code.INVALID_ARGUMENT, "headers must be ASCII")
        elif content.startswith("application/grpc") and not content.startswith("application/grpc-web"):
            await _refuse(send, 415, Code.UNIMPLEMENTED, "gRPC itself is answered on its own port")
        elif self._calls >= MAX_CALLS:
            await _refuse(
                send, 429, Code.RESOURCE_EXHAUSTED, f"{MAX_CALLS} calls are being answered, which is the limit"
            )
        else:
            self._calls += 1
            try:
                others = [line for line in scope["headers"] if line[0] != REQUEST_ID.encode()]
                numbered = {**scope, "headers": [*others, (REQUEST_ID.encode(), number.encode())]}
                await self._api(numbered, _timely(receive), send)
            finally:
                self._calls -= 1


class _Api(ConnectASGIApplication[None]):
    path = f"/{SERVICE.full_name}"


def _endpoint(path: str) -> Endpoint[Any, Any]:
    method = METHODS[path]
    about = MethodInfo(
        name=method.name,
        service_name=SERVICE.full_name,
        input=GetMessageClass(method.input_type),
        output=GetMessageClass(method.output_type),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )
    return Endpoint.unary(about, answer)


@dataclass(frozen=True)
class _File:
    """A file of the page, as it was when the server started."""

    content: bytes
    type: str
    tag: str

    @staticmethod
    def read(path: Path) -> _File:
        content = path.read_bytes()
        return _File(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"')


async def _send_file(file: _File, method: str, headers: Mapping[str, str], send: Send) -> None:
    if method not in ("GET", "HEAD"):
        return await _refuse(send, 405, Code.UNIMPLEMENTED, "the page can only be read")
    fresh = headers.get("if-none-match") == file.tag
    answer = {"content-type": file.type, "etag": file.tag, "cache-control": "no-cache"}
    await _send(send, 304 if fresh else 200, answer, b"" if fresh else file.content, head=fresh or method == "HEAD")


async def _refuse(send: Send, status: int, code: Code, message: str) -> None:
    """An error in Connect's words."""
    body = json.dumps({"code": code.value, "message": message}).encode()
    await _send(send, status, {"content-type": "application/json"}, body)


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes, head: bool = False) -> None:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    if status != 304:
        lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": b"" if head else body})


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Adds headers to the answer that it does not have."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", ()))
            names = {name for name, _ in own}
            own += [(n.encode(), v.encode()) for n, v in headers.items() if n.encode() not in names]
            message = {**message, "headers": own}
        await send(message)

    return sending


def _timely(receive: Receive) -> Receive:
    """A caller that takes longer than BODY_SECONDS to send its message counts as gone."""
    deadline: float | None = asyncio.get_running_loop().time() + BODY_SECONDS

    async def receiving() -> Message:
        nonlocal deadline
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        if not message.get("more_body"):
            deadline = None  # from now on this waits for the caller to go away
        return message

    return receiving
