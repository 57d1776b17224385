"""Bad and hostile requests, each with the code, the reason and the fields that its sender is told.

Bad tokens and certificates: test_security. Bad pictures within a stream: test_stream.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import socket
import struct
import zlib
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.server import MESSAGE_BYTES, METADATA_BYTES
from tests.raw_http2 import Http2, grpc_status, message
from tests.running_server import Running, failure, fields, jpeg, reason, running

Code = grpc.StatusCode
SERVICE = "/captioner.v1.CaptionService/"


class Case(NamedTuple):
    """A request, and what it is answered."""

    method: str
    request: Any
    code: grpc.StatusCode
    reason: str
    fields: set[str]
    metadata: tuple[tuple[str, Any], ...] = ()


CASES: dict[str, Case] = {}


# Pictures


def picture(name: str, image: bytes, why: str) -> None:
    CASES[f"picture: {name}"] = Case(
        "CaptionImage", pb.CaptionImageRequest(image=image), Code.INVALID_ARGUMENT, why, {"image"}
    )


def saved(kind: str, size: tuple[int, int] = (64, 64), mode: str = "RGB", **options: Any) -> bytes:
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    (Image.fromarray(noise) if mode == "RGB" else Image.new(mode, size)).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


JPEG, PNG, GIF, WEBP = (saved(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP"))
BOMB = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * 2**20)))

picture("nothing", b"", "EMPTY_IMAGE")
picture("noise", random.Random(1).randbytes(500), "UNSUPPORTED_FORMAT")
picture(
    "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "UNSUPPORTED_FORMAT"
)
picture("PDF", b"%PDF-1.7\n1 0 obj", "UNSUPPORTED_FORMAT")
picture("HTML", b"<!DOCTYPE html><script>alert(1)</script>", "UNSUPPORTED_FORMAT")
picture("an address", b"http://169.254.169.254/latest/meta-data", "UNSUPPORTED_FORMAT")
picture("a path", b"/etc/passwd", "UNSUPPORTED_FORMAT")
picture("TIFF", saved("TIFF"), "UNSUPPORTED_FORMAT")
picture("BMP", saved("BMP"), "UNSUPPORTED_FORMAT")
picture("gzip of a JPEG", gzip.compress(JPEG), "UNSUPPORTED_FORMAT")
picture("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC_UNSUPPORTED")
picture("JPEG: its first bytes", JPEG[:3], "CORRUPT_IMAGE")
picture("JPEG: half of it", JPEG[: len(JPEG) // 2], "CORRUPT_IMAGE")
picture("JPEG: damaged inside", JPEG[:700] + bytes(200) + JPEG[900:], "CORRUPT_IMAGE")
picture("JPEG: 200 scans", JPEG[:2] + b"\xff\xda\x00\x02" * 200 + JPEG[2:], "CORRUPT_IMAGE")
picture("PNG: its first bytes", PNG[:8], "CORRUPT_IMAGE")
picture("PNG: half of it", PNG[: len(PNG) // 2], "CORRUPT_IMAGE")
picture("PNG: a checksum", PNG[:-20] + bytes([PNG[-20] ^ 1]) + PNG[-19:], "CORRUPT_IMAGE")
picture("PNG: text that unpacks to 50 MB", png_header(64, 64) + BOMB + PNG[33:], "CORRUPT_IMAGE")
picture("PNG: 100,000 x 100,000", png_header(100_000, 100_000) + chunk(b"IDAT", b""), "IMAGE_TOO_MANY_PIXELS")
picture("PNG: 10,000 x 10,000 in 12 kB", saved("PNG", (10_000, 10_000), "1"), "IMAGE_TOO_MANY_PIXELS")
picture("GIF: half of it", GIF[: len(GIF) // 2], "CORRUPT_IMAGE")
picture("WebP: half of it", WEBP[: len(WEBP) // 2], "CORRUPT_IMAGE")
picture("WebP: its first bytes", WEBP[:12], "CORRUPT_IMAGE")
picture("1 x 1", jpeg(1, 1), "IMAGE_TOO_SMALL")
picture("7 x 64", jpeg(7, 64), "IMAGE_TOO_SMALL")
picture("8 x 400", jpeg(8, 400), "IMAGE_BAD_ASPECT")
picture("17 MiB", JPEG + bytes(17 * 2**20), "IMAGE_TOO_LARGE_BYTES")


# Fields


def caption(name: str, named: set[str], code: grpc.StatusCode, why: str, **values: Any) -> None:
    CASES[f"caption: {name}"] = Case("CaptionImage", pb.CaptionImageRequest(image=JPEG, **values), code, why, named)


def option(name: str, *named: str, **values: Any) -> None:
    caption(name, set(named), Code.INVALID_ARGUMENT, "OPTION_OUT_OF_RANGE", **values)


option("no beams", "beam_size", beam_size=0)
option("too many beams", "beam_size", beam_size=21)
option("the smallest integer", "beam_size", beam_size=-(2**31))
option("the largest integer", "max_words", max_words=2**31 - 1)
option("no words", "max_words", max_words=0)
option("no captions", "captions", captions=0)
option("more captions than beams", "captions", beam_size=2, captions=3)
option("a negative power", "length_power", length_power=-0.1)
option("a power of 2.1", "length_power", length_power=2.1)
option("not a number", "length_power", length_power=float("nan"))
option("infinity", "length_power", length_power=float("inf"))
option("everything", "beam_size", "max_words", "captions", "length_power",
       beam_size=99, max_words=0, captions=21, length_power=9)  # fmt: skip
caption("another model", set(), Code.NOT_FOUND, "UNKNOWN_MODEL", model="another")
caption("another version", set(), Code.NOT_FOUND, "UNKNOWN_MODEL", model="tiny@000000000000")
caption("a path as model", set(), Code.NOT_FOUND, "UNKNOWN_MODEL", model="../../etc/passwd")
caption("a long model", set(), Code.NOT_FOUND, "UNKNOWN_MODEL", model="x" * 1_000_000)
caption("a model of control characters", set(), Code.NOT_FOUND, "UNKNOWN_MODEL", model="tiny\r\n\0\x1b[2J")


def question(name: str, why: str, *named: str, code: grpc.StatusCode = Code.INVALID_ARGUMENT, **values: Any) -> None:
    values = {"question": "what is it", **values}
    request = pb.AnswerQuestionRequest(image=JPEG, **values)
    CASES[f"question: {name}"] = Case("AnswerQuestion", request, code, why, set(named))


EXCHANGE = pb.Exchange(question="what", answer="dog")
question("none", "EMPTY_QUESTION", "question", question="")
question("no words", "EMPTY_QUESTION", "question", question=" \n?!")
question("51 words", "QUESTION_TOO_LONG", "question", question="a " * 51)
question("1001 characters", "QUESTION_TOO_LONG", "question", question="a" * 1001)
question("a million characters", "QUESTION_TOO_LONG", "question", question="\N{GRINNING FACE}" * 1_000_000)
question("no answers", "OPTION_OUT_OF_RANGE", "top", top=0)
question("21 answers", "OPTION_OUT_OF_RANGE", "top", top=21)
question("201 candidates", "TOO_MANY_CANDIDATES", "candidates", candidates=[str(n) for n in range(201)])
question("an empty candidate", "BAD_CANDIDATE", "candidates", candidates=["yes", " "])
question("a candidate twice", "BAD_CANDIDATE", "candidates", candidates=["yes", "yes"])
question("a long candidate", "BAD_CANDIDATE", "candidates", candidates=["a" * 1001])
question("21 exchanges", "HISTORY_TOO_LONG", "history", history=[EXCHANGE] * 21)
question("a long exchange", "HISTORY_TOO_LONG", "history", history=[pb.Exchange(answer="a" * 1001)])
question("a history where none is read", "HISTORY_UNAVAILABLE", "history",
         code=Code.FAILED_PRECONDITION, history=[EXCHANGE])  # fmt: skip
CASES["figure: a question without words"] = Case(
    "DrawAttention", pb.DrawAttentionRequest(image=JPEG, question="?"), Code.INVALID_ARGUMENT, "EMPTY_QUESTION",
    {"question"},
)  # fmt: skip
CASES["figure: no beams"] = Case(
    "DrawAttention", pb.DrawAttentionRequest(image=JPEG, beam_size=0), Code.INVALID_ARGUMENT, "OPTION_OUT_OF_RANGE",
    {"beam_size"},
)  # fmt: skip
CASES["figure: no picture"] = Case(
    "DrawAttention", pb.DrawAttentionRequest(), Code.INVALID_ARGUMENT, "EMPTY_IMAGE", {"image"}
)


# Messages, metadata, methods


def raw(name: str, data: bytes, why: str = "MALFORMED_REQUEST", named: frozenset[str] = frozenset()) -> None:
    CASES[f"bytes: {name}"] = Case("CaptionImage", data, Code.INVALID_ARGUMENT, why, set(named))


raw("not a message", b"\xff\xff\xff\xff")
raw("a length beyond the end", b"\x0a\xff\xff\xff\xff\x0f")
raw("a length and no content", b"\x0a\x05ab")
raw("text that is not UTF-8", b"\x12\x02\xff\xfe")
raw("field number 0", b"\x00\x01")
raw("a group that never ends", b"\x0b" * 200)
raw("a number where the picture belongs", b"\x08\x01", "EMPTY_IMAGE", frozenset({"image"}))
raw("JSON", b'{"image": "aGVsbG8="}')

CASES["size: above the limit"] = Case(
    "CaptionImage", bytes(MESSAGE_BYTES + 1), Code.RESOURCE_EXHAUSTED, "", set()
)  # fmt: skip
CASES["metadata: a long value"] = Case(
    "GetModel", pb.GetModelRequest(), Code.RESOURCE_EXHAUSTED, "", set(), (("x-long", "x" * METADATA_BYTES),)
)
CASES["metadata: many values"] = Case(
    "GetModel",
    pb.GetModelRequest(),
    Code.RESOURCE_EXHAUSTED,
    "",
    set(),
    tuple((f"x-{n}", "x" * 20) for n in range(500)),
)
for unknown in ("Nonsense", "captionimage", "../CaptionService/CaptionImage", "", "CaptionImage/../GetModel"):
    CASES[f"method: {unknown or 'none'}"] = Case(unknown, b"", Code.UNIMPLEMENTED, "", set())


# What no gRPC library would send; the code is gRPC's own, None where it resets the stream


class Raw(NamedTuple):
    """Headers beside the usual ones, a body for GetModel, and the code."""

    headers: Mapping[str, str | bytes]
    body: bytes
    code: grpc.StatusCode | None


EMPTY = message(b"")
RAW: dict[str, Raw] = {
    "another content": Raw({"content-type": "text/plain"}, EMPTY, Code.OK),
    "GET": Raw({":method": "GET"}, EMPTY, None),
    "no trailers wanted": Raw({"te": b""}, EMPTY, None),
    "no authority": Raw({":authority": b""}, EMPTY, None),
    "a timeout that is none": Raw({"grpc-timeout": "soon"}, EMPTY, Code.INTERNAL),
    "a negative timeout": Raw({"grpc-timeout": "-1S"}, EMPTY, Code.INTERNAL),
    "no time at all": Raw({"grpc-timeout": "0n"}, EMPTY, Code.DEADLINE_EXCEEDED),
    "a timeout of ages": Raw({"grpc-timeout": "99999999999999999999S"}, EMPTY, Code.OK),
    "an encoding nobody knows": Raw({"grpc-encoding": "br"}, message(b"x", True), Code.INTERNAL),
    "packed nonsense": Raw({"grpc-encoding": "gzip"}, message(b"nonsense", True), Code.INTERNAL),
    "packed without an encoding": Raw({}, message(b"x", True), Code.INTERNAL),
    "packed twice": Raw({"grpc-encoding": "gzip"}, message(gzip.compress(gzip.compress(b"")), True),
                        Code.INVALID_ARGUMENT),
    "a length of 4 GiB": Raw({}, message(b"x", length=2**32 - 1), Code.RESOURCE_EXHAUSTED),
    "two messages": Raw({}, EMPTY + EMPTY, Code.OK),
    "binary metadata": Raw({"x-odd-bin": base64.b64encode(bytes(range(256)))}, EMPTY, Code.OK),
    "binary metadata that is none": Raw({"x-odd-bin": "!!!!"}, EMPTY, Code.INTERNAL),
    "metadata of control characters": Raw({"x-odd": b"a\0b\r\nc\x1b[2J"}, EMPTY, Code.OK),
    "metadata that is not UTF-8": Raw({"x-odd": b"\xff\xfe", "authorization": b"Bearer \xff"}, EMPTY, Code.OK),
    "metadata without a name": Raw({"": "x"}, EMPTY, Code.INTERNAL),
    "metadata in capitals": Raw({"X-Odd": "x"}, EMPTY, Code.INTERNAL),
    "a request id that forges the log": Raw({"x-request-id": b'x"}\r\n{"level":"ERROR"'}, EMPTY, Code.OK),
    "a trace that is none": Raw({"traceparent": "00-zz-zz-zz"}, EMPTY, Code.OK),
}  # fmt: skip
for unknown in ("no slash", "", "/" + "x" * 7000):
    RAW[f"the path {unknown[:10]!r}"] = Raw({":path": unknown or "/"}, EMPTY, Code.UNIMPLEMENTED)


@pytest.mark.parametrize("case", RAW.values(), ids=RAW)
def test_what_no_library_would_send(server: Running, case: Raw) -> None:
    with Http2(server.target) as connection:
        connection.call(SERVICE + "GetModel", case.body, headers=case.headers)
        answer = connection.headers_until_end()
    assert grpc_status(answer) == (None if case.code is None else case.code.value[0])
    assert b"forges" not in answer
    assert b"ERROR" not in answer
    with grpc.insecure_channel(server.target) as channel:
        assert caption_of(channel)


@pytest.mark.parametrize("body", [b"", b"\0\0", message(b"x", length=100)], ids=["none", "half a header", "half of it"])
def test_a_message_that_never_comes_whole(server: Running, body: bytes) -> None:
    """gRPC answers nothing; what matters is that nothing is left of it."""
    with Http2(server.target) as connection:
        connection.call(SERVICE + "CaptionImage", body)
        with grpc.insecure_channel(server.target) as channel:
            assert caption_of(channel)
        assert server.admitted == 0
    assert server.server.calls.active == 0


# The gateway


GOOD = {"image": base64.b64encode(JPEG).decode()}
JSON_CASES = {
    "base64 that is none": ({"image": "!!!"}, "EMPTY_IMAGE"),
    "a number for a picture": ({"image": 1}, ""),
    "no picture": ({}, "EMPTY_IMAGE"),
    "an address for a picture": ({"image": base64.b64encode(b"http://127.0.0.1/").decode()}, "UNSUPPORTED_FORMAT"),
    "half a beam": ({**GOOD, "beamSize": 2.5}, ""),
    "beams in words": ({**GOOD, "beamSize": "many"}, ""),
    "no beams": ({**GOOD, "beamSize": 0}, "OPTION_OUT_OF_RANGE"),
    "not a number": ({**GOOD, "lengthPower": "NaN"}, "OPTION_OUT_OF_RANGE"),
    "infinity": ({**GOOD, "lengthPower": "-Infinity"}, "OPTION_OUT_OF_RANGE"),
    "a list for a model": ({**GOOD, "model": ["tiny"]}, ""),
    "half a character": ({**GOOD, "model": "\ud800"}, ""),
}


@pytest.fixture(scope="module")
def web(tiny_bundle_answers: Path) -> Iterator[int]:
    pytest.importorskip("connectrpc", reason="connectrpc is not installed")
    with running(Captioner.load(tiny_bundle_answers, threads=1), web_port=0) as with_pages:
        assert with_pages.server.web_port is not None
        yield with_pages.server.web_port


def posted(port: int, body: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", SERVICE + "CaptionImage", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


@pytest.mark.parametrize(("fields", "why"), JSON_CASES.values(), ids=JSON_CASES)
def test_what_the_gateway_tells(web: int, fields: Any, why: str) -> None:
    status, content = posted(web, json.dumps(fields))
    assert (status, content["code"]) == (400, "invalid_argument")
    details = b"".join(base64.b64decode(detail["value"] + "===") for detail in content.get("details", ()))
    assert why.encode() in details
    assert bool(why) == bool(details)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 50_000 + b"\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 1000,
    ],
    ids=["a long path", "a long header", "many headers", "two lengths", "a negative length", "a bad chunk", "TLS",
         "HTTP/2", "zeros"],
)  # fmt: skip
def test_what_is_not_http_is_refused(web: int, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", web), timeout=10) as raw:
        try:
            raw.sendall(data)
            answer = raw.recv(4096)
        except ConnectionError:
            answer = b""
    status = answer[9:12]
    assert not answer or (answer.startswith(b"HTTP/1.1 4") and b"Traceback" not in answer), status
    assert posted(web, json.dumps(GOOD))[0] == 200


@pytest.fixture(scope="module")
def server(tiny_bundle_answers: Path) -> Iterator[Running]:
    with running(Captioner.load(tiny_bundle_answers, threads=1)) as running_server:
        yield running_server
        with grpc.insecure_channel(running_server.target) as channel:
            assert caption_of(channel)


@pytest.fixture(scope="module")
def channel(server: Running) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.target, options) as opened:
        yield opened


def caption_of(channel: grpc.Channel) -> Any:
    stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
    return stub.CaptionImage(pb.CaptionImageRequest(image=JPEG), timeout=10).captions


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_its_sender_is_told(channel: grpc.Channel, case: Case) -> None:
    data = case.request if isinstance(case.request, bytes) else case.request.SerializeToString()
    method = channel.unary_unary(SERVICE + case.method)
    code, details = failure(lambda: method(data, timeout=20, metadata=case.metadata))
    assert (code, reason(details), fields(details)) == (case.code, case.reason, case.fields)
    if case.reason:  # without one, it is gRPC's own message
        assert len(details["message"].encode()) <= 400
    assert "Traceback" not in details["message"]


def test_there_are_more_than_fifty() -> None:
    assert len(CASES) > 50


def test_a_message_that_unpacks_to_more_than_the_limit(server: Running) -> None:
    packed = grpc.insecure_channel(
        server.target, [("grpc.max_send_message_length", -1)], compression=grpc.Compression.Gzip
    )
    with packed as channel:
        code, _ = failure(lambda: channel.unary_unary(SERVICE + "CaptionImage")(bytes(64 * 2**20), timeout=20))
        assert code is Code.RESOURCE_EXHAUSTED
        assert caption_of(channel)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(1000),
        b"PRI * HTTP/2.0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x01\x05\0\0\0\x01",
    ],
    ids=["HTTP/1.1", "TLS", "zeros", "half a preface", "a frame too large"],
)
def test_what_is_not_http2_hurts_nobody(server: Running, data: bytes) -> None:
    host, port = server.target.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        with grpc.insecure_channel(server.target) as channel:
            assert caption_of(channel)


def test_a_deadline_that_has_passed(channel: grpc.Channel) -> None:
    stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
    code, _ = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=JPEG), timeout=0.000001))
    assert code is Code.DEADLINE_EXCEEDED
    assert caption_of(channel)


def test_hundreds_of_connections(server: Running) -> None:
    host, port = server.target.split(":")
    connections = [socket.create_connection((host, int(port)), timeout=10) for _ in range(200)]
    try:
        with grpc.insecure_channel(server.target) as channel:
            assert caption_of(channel)
    finally:
        for connection in connections:
            connection.close()
