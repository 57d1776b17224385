"""The HTTP port: what it serves and refuses, and that calls go the way of the gRPC server's."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection
from urllib.parse import urlsplit

import grpc
import pytest

pytest.importorskip("connectrpc", reason="connectrpc is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from google.rpc import error_details_pb2

from captioner.v1 import captioner_pb2 as pb
from services import gateway
from services.errors import NotReadyError, QueueFullError
from services.gateway import FOLDER, SERVICE, TYPES, serve_web
from services.interceptors import CallInterceptor
from services.security import Tokens
from tests.fake_service import FakeService, Loop, Settings, web
from tests.running_server import jpeg

JSON, PROTO = {"content-type": "application/json"}, {"content-type": "application/proto"}
TOKEN = "a-token-of-this-test"


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def address(service):
    with web(service) as (address, _, _):
        yield address


def ask(address, path, method="GET", body=None, headers=None):
    """(status, headers, body). The path goes out as it is, whatever dots it has."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def call(address, method, message, headers=None):
    """A call in JSON: (status, headers, document)."""
    body = json.dumps(message)
    status, got, content = ask(address, f"/{SERVICE.full_name}/{method}", "POST", body, {**JSON, **(headers or {})})
    return status, got, json.loads(content)


def picture(**fields):
    return {"image": base64.b64encode(jpeg()).decode(), **fields}


def detail(document, kind):
    """One of an error's details."""
    [value] = [own["value"] for own in document["details"] if own["type"] == kind.DESCRIPTOR.full_name]
    return kind.FromString(base64.b64decode(value + "==="))


def test_the_page_and_its_files(address):
    status, headers, body = ask(address, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body == (FOLDER / "index.html").read_bytes()
    for path in FOLDER.iterdir():
        status, headers, body = ask(address, f"/{path.name}")
        assert (status, headers["content-type"], body) == (200, TYPES[path.suffix], path.read_bytes())
        assert ask(address, f"/{path.name}", "HEAD")[2] == b""
        fresh = ask(address, f"/{path.name}", headers={"if-none-match": headers["etag"]})
        assert (fresh[0], fresh[2]) == (304, b"")
    assert ask(address, "/", "POST", b"")[0] == 405


@pytest.mark.parametrize(
    "path",
    ["/../gateway.py", "/%2e%2e/gateway.py", "/..%2fgateway.py", "/web/../../gateway.py", "//etc/passwd", "/app.js/",
     "/..\\gateway.py", "/index.html%00.js", "/.", "*", f"/{SERVICE.full_name}", f"/{SERVICE.full_name}/Nothing",
     f"/{SERVICE.full_name}/StreamCaptionImages", "/grpc.health.v1.Health/Check"],
)  # fmt: skip
def test_nothing_else_is_there(address, path):
    for method in ("GET", "POST"):
        status, headers, body = ask(address, path, method)
        assert status == 404
        assert json.loads(body)["code"] == "unimplemented"
        assert headers["x-content-type-options"] == "nosniff"


def test_every_answer_has_the_security_headers(address):
    calls = [call(address, "ListModels", {}), call(address, "GetModel", [])]
    for _, headers, _ in [ask(address, "/"), ask(address, "/nothing"), *calls]:
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_other_sites_are_told_nothing(address):
    origin = {"origin": "https://example.com", "access-control-request-method": "POST"}
    preflight = ask(address, f"/{SERVICE.full_name}/ListModels", "OPTIONS", headers=origin)
    assert preflight[0] == 405
    assert ask(address, f"/{SERVICE.full_name}/ListModels", "POST", b"{}", {"content-type": "text/plain"})[0] == 415
    for _, headers, _ in (preflight, call(address, "ListModels", {}, origin), ask(address, "/", headers=origin)):
        assert not [name for name in headers if name.startswith("access-control")]


def test_json_and_protobuf_and_grpc_web_say_the_same(address, service):
    _, _, document = call(address, "CaptionImage", picture(captions=2, includeAttention=True))
    assert [caption["text"] for caption in document["captions"]] == ["a man's dog", "two dogs"]
    assert document["captions"][0]["words"][1]["attention"]["weights"][:3] == [0.0, 1.0, 0.0]

    request = pb.CaptionImageRequest(image=jpeg(), captions=2, include_attention=True)
    path = f"/{SERVICE.full_name}/CaptionImage"
    status, headers, body = ask(address, path, "POST", request.SerializeToString(), PROTO)
    assert (status, headers["content-type"]) == (200, "application/proto")
    response = pb.CaptionImageResponse.FromString(body)
    assert [caption.text for caption in response.captions] == ["a man's dog", "two dogs"]
    assert service.asked("CaptionImage") == [request, request]

    message = request.SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    status, _, body = ask(address, path, "POST", framed, {"content-type": "application/grpc-web+proto"})
    size = int.from_bytes(body[1:5], "big")
    assert (status, body[0]) == (200, 0)
    assert pb.CaptionImageResponse.FromString(body[5 : 5 + size]) == response
    trailers = body[5 + size :]
    assert trailers[0] == 0x80
    assert b"grpc-status: 0" in trailers.lower().replace(b":0", b": 0")


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (QueueFullError("full", 1.5), 429, "resource_exhausted", "QUEUE_FULL"),
        (NotReadyError("DRAINING"), 503, "unavailable", "DRAINING"),
        (ZeroDivisionError("secret"), 500, "internal", "INTERNAL"),
    ],
)
def test_a_failed_call_has_the_code_and_the_details_of_grpc(address, service, error, status, code, reason):
    service.failures.append(error)
    got, _, document = call(address, "CaptionImage", picture())
    assert (got, document["code"]) == (status, code)
    info = detail(document, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (reason, "captioner")
    assert "secret" not in str(document)
    if isinstance(error, QueueFullError):
        assert detail(document, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1500


def test_a_bad_picture_and_an_unknown_model(address):
    status, _, document = call(address, "CaptionImage", {"image": ""})
    assert (status, document["code"]) == (400, "invalid_argument")
    assert detail(document, error_details_pb2.ErrorInfo).reason == "EMPTY_IMAGE"
    [violation] = detail(document, error_details_pb2.BadRequest).field_violations
    assert violation.field == "image"
    status, _, document = call(address, "GetModel", {"model": "other"})
    assert (status, document["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"{", JSON), (b"[]", JSON), (b'{"image": 3}', JSON), (b'{"beamSize": 1e99}', JSON), (b"\xff\xff", PROTO),
     (b'{"image":' * 5000, JSON), (b"\xff\xfe", JSON), (b"{}", {**JSON, "x-other": "\xe9"}),
     (b"{}", {**JSON, "connect-timeout-ms": "soon"})],
)  # fmt: skip
def test_what_is_no_message_is_refused(address, body, headers):
    status, _, content = ask(address, f"/{SERVICE.full_name}/CaptionImage", "POST", body, headers)
    assert (status, json.loads(content)["code"]) == (400, "invalid_argument")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/grpc", "application/grpc+proto", "multipart/form-data", ""]
)
def test_other_content_is_refused(address, kind):
    status, _, _ = ask(address, f"/{SERVICE.full_name}/CaptionImage", "POST", b"{}", {"content-type": kind})
    assert status == 415


def test_packed_messages_are_refused(address):
    packed = {**JSON, "content-encoding": "gzip"}
    status, _, content = ask(address, f"/{SERVICE.full_name}/ListModels", "POST", b"\x1f\x8b", packed)
    assert (status, json.loads(content)["code"]) == (501, "unimplemented")


def test_the_largest_photo_fits_into_json_and_much_more_does_not(address, service):
    status, _, document = call(address, "CaptionImage", {"image": base64.b64encode(bytes(2**24 + 1)).decode()})
    assert detail(document, error_details_pb2.ErrorInfo).reason == "IMAGE_TOO_LARGE_BYTES"
    assert status == 400
    service.seen.clear()
    with socket.create_connection(("127.0.0.1", urlsplit(address).port), timeout=20) as raw:
        lines = [f"POST /{SERVICE.full_name}/CaptionImage HTTP/1.1", "host: x", "content-type: application/json"]
        raw.sendall("\r\n".join([*lines, "content-length: 100000000", "", ""]).encode())
        sent = 0
        try:
            for _ in range(100):
                raw.sendall(bytes(10**6))
                sent += 10**6
            raw.settimeout(10)
        except OSError:
            pass  # refused before it was sent
        answer = raw.recv(4096)
    assert answer.startswith(b"HTTP/1.1 429")
    assert not service.seen


def test_the_callers_deadline_ends_the_work(address, service):
    call(address, "ListModels", {})
    assert service.remaining is None
    service.gate.clear()
    status, _, document = call(address, "CaptionImage", picture(), {"connect-timeout-ms": "300"})
    assert (status, document["code"]) == (504, "deadline_exceeded")
    assert 0 < service.remaining <= 0.3
    assert service.cancelled.wait(10)


def test_work_ends_when_the_caller_goes_away(address, service):
    service.gate.clear()
    connection = HTTPConnection(urlsplit(address).netloc)
    connection.request("POST", f"/{SERVICE.full_name}/CaptionImage", json.dumps(picture()), JSON)
    until(lambda: service.seen)
    connection.close()
    assert service.cancelled.wait(10)


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen within 10 s"
        time.sleep(0.01)


@pytest.mark.parametrize(("given", "kept"), [("my.own-ID_1", True), ("x" * 65, False), ("a b", False), ("", False)])
def test_every_answer_has_a_request_id(address, service, given, kept):
    service.failures.append(QueueFullError("full", 1))
    for path in ("/", f"/{SERVICE.full_name}/GetModel", f"/{SERVICE.full_name}/GetModel"):
        number = ask(address, path, "POST", b"{}", {**JSON, "x-request-id": given})[1]["x-request-id"]
        assert (number == given) == kept
        assert len(number) == len(given) if kept else 32
    metadata = dict(service.seen[-1][2])
    assert metadata["x-request-id"] == number  # the log of the call has the same


def test_the_interceptor_of_the_grpc_server_is_asked(service, tmp_path):
    class Watcher:
        finished_calls = []  # noqa: RUF012

        def finished(self, call):
            self.finished_calls.append(call)

        def failed(self, failure):
            pass

    (tmp_path / "tokens").write_text(f"tester {TOKEN}\n")
    (tmp_path / "tokens").chmod(0o600)

    async def interceptor():
        return CallInterceptor(Tokens(tmp_path / "tokens"), [Watcher()])

    loop = Loop()
    with web(service, [loop.run(interceptor())]) as (address, _, _):
        for headers, reason in (({}, "TOKEN_MISSING"), ({"authorization": f"Bearer {TOKEN}x"}, "TOKEN_INVALID")):
            status, _, document = call(address, "ListModels", {}, headers)
            assert (status, document["code"]) == (401, "unauthenticated")
            assert detail(document, error_details_pb2.ErrorInfo).reason == reason
        assert not service.seen
        good = {"authorization": f"Bearer {TOKEN}", "x-request-id": "mine"}
        status, headers, _ = call(address, "ListModels", {}, good)
        assert (status, headers["x-request-id"]) == (200, "mine")
        last = Watcher.finished_calls[-1]
        assert (last.method, last.caller, last.request_id) == ("ListModels", "tester", "mine")
        assert last.code is grpc.StatusCode.OK
        assert ask(address, "/")[0] == 200  # the page asks for the token

        # A stranger's message is not even read.
        with socket.create_connection(("127.0.0.1", urlsplit(address).port), timeout=20) as raw:
            lines = [f"POST /{SERVICE.full_name}/CaptionImage HTTP/1.1", "host: x", "content-type: application/json"]
            raw.sendall("\r\n".join([*lines, "content-length: 20000000", "", ""]).encode())
            assert raw.recv(4096).startswith(b"HTTP/1.1 401")
    loop.close()


def test_calls_at_a_time_are_limited(address, service, monkeypatch):
    monkeypatch.setattr(gateway, "MAX_CALLS", 1)
    service.gate.clear()
    results = []
    first = threading.Thread(target=lambda: results.append(call(address, "CaptionImage", picture())[0]))
    first.start()
    until(lambda: service.seen)
    status, _, document = call(address, "ListModels", {})
    assert (status, document["code"]) == (429, "resource_exhausted")
    service.gate.set()
    first.join(10)
    assert results == [200]
    assert call(address, "ListModels", {})[0] == 200


def test_a_message_that_never_ends_is_given_up(service, monkeypatch):
    monkeypatch.setattr(gateway, "BODY_SECONDS", 0.2)
    with web(service) as (address, _, _), socket.create_connection(("127.0.0.1", urlsplit(address).port)) as raw:
        lines = [f"POST /{SERVICE.full_name}/ListModels HTTP/1.1", "host: x", "content-type: application/json"]
        raw.sendall("\r\n".join([*lines, "content-length: 2", "", "{"]).encode())
        raw.settimeout(10)
        assert raw.recv(4096).startswith(b"HTTP/1.1 499")
        assert not service.seen


def test_closing_finishes_what_was_begun(service):
    service.gate.clear()
    results = []
    with web(service) as (address, running, loop):
        caller = threading.Thread(target=lambda: results.append(call(address, "CaptionImage", picture())[0]))
        caller.start()
        until(lambda: service.seen)
        closing = threading.Thread(target=lambda: loop.run(running.close()))
        closing.start()

        def refused():
            with socket.socket() as raw:
                return raw.connect_ex(("127.0.0.1", running.port)) != 0

        until(refused)
        assert not results
        service.gate.set()
        for thread in (caller, closing):
            thread.join(10)
        assert results == [200]


def test_a_port_that_is_taken(service):
    with web(service) as (_, running, loop), pytest.raises(OSError, match="in use"):
        loop.run(serve_web(service, Settings(), running.port))


def certificate(folder, name):
    """A certificate that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    about = ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += [*about, "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files


def shown(port, context):
    """The server's certificate, and the first line of its answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw, context.wrap_socket(raw) as secure:
        secure.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        own = ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True))
        return own, secure.recv(15)


def test_tls_is_the_servers_and_clients_need_their_certificate(service, tmp_path):
    own, key = certificate(tmp_path, "server")
    client, client_key = certificate(tmp_path, "client")
    settings = replace(Settings(), tls_certificate=own, tls_key=key, client_ca=client)
    stranger = ssl.create_default_context(cafile=own)
    stranger.check_hostname = False
    known = ssl.create_default_context(cafile=own)
    known.check_hostname = False
    known.load_cert_chain(client, client_key)
    with web(service, settings=settings) as (_, running, loop):
        assert shown(running.port, known) == (own.read_text(), b"HTTP/1.1 200 OK")
        with suppress(OSError):  # by TLS 1.3 the server closes the connection after the handshake
            assert shown(running.port, stranger)[1] == b""
        renewed, renewed_key = certificate(tmp_path, "renewed")
        own.write_bytes(renewed.read_bytes())
        key.write_bytes(renewed_key.read_bytes())

        async def reload():
            running.reload()

        loop.run(reload())
        known.load_verify_locations(own)
        assert shown(running.port, known) == (renewed.read_text(), b"HTTP/1.1 200 OK")
