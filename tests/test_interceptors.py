"""What happens to every call: request ids, the line in the log, traces; a log that cannot be written."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from captioner import Captioner
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services import tracing
from services.interceptors import Call, current, current_call
from services.json_log import JsonFormatter, LogHandler, TextFormatter
from tests.running_server import Held, Running, failure, jpeg, reason, running, wait_until

SECRET = "a-secret-token-0123456789"


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def server(captioner: Captioner) -> Iterator[Running]:
    with running(captioner) as running_server:
        yield running_server


@pytest.fixture
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield captioner_pb2_grpc.CaptionServiceStub(channel)


CAPTION = pb.CaptionImageRequest(image=jpeg())


# Request ids


def request_id(stub: Any, *given: str) -> str:
    metadata = [("x-request-id", name) for name in given]
    _, call = stub.GetModel.with_call(pb.GetModelRequest(), timeout=10, metadata=metadata)
    return str(dict(call.trailing_metadata())["x-request-id"])


@pytest.mark.parametrize("name", ["1", "a-B_c.9", "x" * 64])
def test_a_caller_s_request_id_comes_back(stub: Any, name: str) -> None:
    assert request_id(stub, name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "two words", "a/b", 'a"b', "a{b}"])
def test_another_id_is_replaced(stub: Any, name: str) -> None:
    got = request_id(stub, name)
    assert got != name
    assert len(got) == 32


def test_without_one_the_server_makes_one(stub: Any) -> None:
    assert request_id(stub) != request_id(stub)


def test_the_first_that_can_be_used_counts(stub: Any) -> None:
    assert request_id(stub, "not ok", "good", "other") == "good"


def test_a_failure_carries_it_too(stub: Any) -> None:
    metadata = [("x-request-id", "mine")]
    _, details = failure(lambda: stub.GetModel(pb.GetModelRequest(model="none"), timeout=10, metadata=metadata))
    assert details["request_id"] == "mine"


def test_a_stream_carries_it(stub: Any) -> None:
    requests = iter([pb.StreamCaptionImagesRequest(id="1", request=CAPTION)])
    call = stub.StreamCaptionImages(requests, timeout=10, metadata=[("x-request-id", "mine")])
    assert len(list(call)) == 1
    assert dict(call.initial_metadata())["x-request-id"] == "mine"


# The line of a call


def lines(caplog: pytest.LogCaptureFixture, count: int = 1) -> list[dict[str, Any]]:
    """What the log says of so many calls."""

    def found() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "services.access"]

    wait_until(lambda: len(found()) >= count)
    return [json.loads(JsonFormatter().format(record)) for record in found()]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_one_line_a_call(stub: Any, captioner: Captioner, caplog: pytest.LogCaptureFixture) -> None:
    stub.CaptionImage(CAPTION, timeout=10, metadata=[("x-request-id", "mine")])
    [line] = lines(caplog)
    bundle = captioner.bundle
    assert line["ms"] > 0
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["time"].endswith("+00:00")
    wanted = {
        "level": "INFO", "logger": "services.access", "method": "CaptionImage", "code": "OK", "reason": "",
        "model": f"{bundle.name}@{bundle.version}", "pictures": 1, "bytes": len(CAPTION.image), "request_id": "mine",
        "caller": "",
    }  # fmt: skip
    assert {name: line[name] for name in wanted} == wanted


def test_a_failure_has_code_and_reason(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=b"<secret>"), timeout=10))
    [line] = lines(caplog)
    assert (line["code"], line["reason"], line["bytes"]) == ("INVALID_ARGUMENT", "UNSUPPORTED_FORMAT", 8)


def test_a_stream_is_one_line(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    pictures = [pb.StreamCaptionImagesRequest(id=str(n), request=CAPTION) for n in range(3)]
    assert len(list(stub.StreamCaptionImages(iter(pictures), timeout=10))) == 3
    [line] = lines(caplog)
    assert (line["method"], line["pictures"], line["bytes"]) == ("StreamCaptionImages", 3, 3 * len(CAPTION.image))


def test_no_content_and_no_token_is_logged(
    captioner: Captioner, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"alice {SECRET}\n")
    path.chmod(0o600)
    caplog.set_level(logging.DEBUG)
    with running(captioner, tokens_file=path) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        metadata = [("authorization", f"Bearer {SECRET}")]
        stub.CaptionImage(CAPTION, timeout=10, metadata=metadata)
        question = pb.AnswerQuestionRequest(image=b"<picture>", question="is it private?")
        failure(lambda: stub.AnswerQuestion(question, timeout=10, metadata=metadata))
        failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=b"<picture>"), timeout=10, metadata=metadata))
        failure(lambda: stub.GetModel(pb.GetModelRequest(), timeout=10, metadata=[("authorization", "Bearer <wrong>")]))
        found = lines(caplog, 4)
    assert [line["caller"] for line in found] == ["alice", "alice", "alice", ""]
    everything = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert not [word for word in (SECRET, "<picture>", "private", "<wrong>", "JFIF") if word in everything]


def test_cancelled_and_late_calls(captioner: Captioner, caplog: pytest.LogCaptureFixture) -> None:
    held = Held(captioner)
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        held.hold()
        failure(lambda: stub.CaptionImage(CAPTION, timeout=0.3))
        call = stub.CaptionImage.future(CAPTION, timeout=10)
        wait_until(lambda: server.admitted == 1)
        call.cancel()
        found = lines(caplog, 2)
        held.let_go()
    assert [line["code"] for line in found] == ["DEADLINE_EXCEEDED", "CANCELLED"]


def test_health_checks_are_not_logged(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(server.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        captioner_pb2_grpc.CaptionServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=10)
    assert [line["method"] for line in lines(caplog)] == ["GetModel"]


def test_a_record_within_a_call_has_its_id_and_its_trace() -> None:
    token = current.set(Call("CaptionImage", "mine", "peer"))
    try:
        raise KeyError("x")
    except KeyError as error:
        record = logging.LogRecord(
            "a", logging.ERROR, "f", 1, "a %s\nb", ("1",), (KeyError, error, error.__traceback__)
        )
    finally:
        line = JsonFormatter().format(record)
        current.reset(token)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["message"], read["request_id"], read["level"]) == ("a 1\nb", "mine", "ERROR")
    assert "KeyError: 'x'" in read["trace"]


def test_outside_a_call_nobody_reads_what_is_noted() -> None:
    current_call().picture(b"abc")
    assert current_call().pictures == 0


# A log that cannot be written


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("a", logging.INFO, "f", 1, text, (), None)


def test_lines_reach_the_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        handler = LogHandler(TextFormatter(), file.fileno())
        for text in ("one", "zwölf", "\udcff"):
            handler.handle(record(text))
        handler.close()
    assert [line.rsplit(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "one",
        "zwölf",
        "\\udcff",
    ]
    assert handler.lost == 0


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with Path("/dev/full").open("wb") as full:
        handler = LogHandler(JsonFormatter(), full.fileno())
        for _ in range(3):
            handler.handle(record("x"))
        handler.close()
    assert handler.lost == 3


def test_a_line_that_is_cut_off_does_not_spoil_the_next() -> None:
    """A disk takes a part of what is written before it is full, as does a pipe whose writer does not wait."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handler = LogHandler(JsonFormatter(), writer)
    seen = b""
    with os.fdopen(reader, "rb", 0) as pipe:
        for shade in "abc":
            lost = handler.lost
            handler.handle(record(shade * 300_000))
            wait_until(lambda lost=lost: handler.lost > lost)
            seen += pipe.read(1_000_000)
        handler.handle(record("whole"))
        handler.close()
        os.close(writer)
        seen += pipe.read(1_000_000)
    *cut, last = seen.splitlines()
    assert handler.lost == len(cut) == 3
    assert json.loads(last)["message"] == "whole"


def test_a_broken_pipe_loses_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    handler = LogHandler(JsonFormatter(), writer)
    handler.handle(record("x"))
    handler.close()
    os.close(writer)
    assert handler.lost == 1


def test_a_reader_that_stands_still_delays_nobody() -> None:
    reader, writer = os.pipe()
    handler = LogHandler(TextFormatter(), writer, capacity=10)
    for _ in range(40):
        handler.handle(record("x" * 10_000))  # 64 kB fit into the pipe
    assert handler.lost > 0
    os.close(reader)
    handler.close()
    os.close(writer)


def test_a_record_that_cannot_be_formatted_is_lost() -> None:
    handler = LogHandler(TextFormatter(), -1)
    handler.handle(logging.LogRecord("a", logging.INFO, "f", 1, "%d", ("x",), None))
    handler.close()
    assert handler.lost == 1


# Traces

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_span_for_each_call(captioner: Captioner) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import StatusCode

    exporter = InMemorySpanExporter()
    trace = tracing.Tracing(exporter)
    with running(captioner, watchers=[trace]) as server, grpc.insecure_channel(server.target) as channel:
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        metadata = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "mine")]
        stub.CaptionImage(CAPTION, timeout=10, metadata=metadata)
        failure(lambda: stub.GetModel(pb.GetModelRequest(model="none"), timeout=10))
    trace.close()
    first, second = exporter.get_finished_spans()
    assert (first.name, second.name) == ("CaptionImage", "GetModel")
    assert first.parent is not None
    assert (f"{first.context.trace_id:032x}", f"{first.parent.span_id:016x}") == (TRACE, PARENT)
    assert second.parent is None
    assert first.end_time is not None
    assert first.start_time is not None
    assert first.end_time > first.start_time
    attributes = dict(first.attributes or {})
    assert attributes["captioner.request_id"] == "mine"
    assert attributes["captioner.bytes"] == len(CAPTION.image)
    assert attributes["captioner.search_seconds"] > 0  # type: ignore[operator]
    assert dict(second.attributes or {})["captioner.reason"] == "UNKNOWN_MODEL"
    assert second.status.status_code is StatusCode.UNSET  # the caller's fault


def test_spans_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    posted: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    assert tracing.from_environment() is None
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        trace = tracing.from_environment()
        assert trace is not None
        trace.finished(Call("CaptionImage", "mine", "peer", seconds=0.1, begun=time.monotonic()))
        trace.close()
        collector.shutdown()
    [(path, body)] = posted
    assert path == "/v1/traces"
    assert b"CaptionImage" in body


def test_work_that_is_cancelled_though_the_call_is_not_is_our_fault(captioner: Captioner) -> None:
    import asyncio

    with running(captioner) as server, grpc.insecure_channel(server.target) as channel:

        async def cancelled(*_: Any) -> Any:
            raise asyncio.CancelledError

        server.server.service._caption = cancelled  # type: ignore[method-assign]
        stub: Any = captioner_pb2_grpc.CaptionServiceStub(channel)
        code, details = failure(lambda: stub.CaptionImage(CAPTION, timeout=10))
    assert (code, reason(details)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
