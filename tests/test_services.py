"""The service as a caller meets it: a real server on 127.0.0.1, a small model with random weights."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from captioner import Captioner, SearchOptions
from captioner.images import ImageLimits
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services import errors
from services.server import MESSAGE_BYTES, SERVICE, ServerSettings
from services.translation import MAXIMA
from tests.running_server import Held, Running, jpeg, running

ROOT = Path(__file__).parents[1]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def server(captioner: Captioner) -> Iterator[Running]:
    with running(captioner) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def channel(server: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target, OPTIONS) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return captioner_pb2_grpc.CaptionServiceStub(channel)


@pytest.fixture
def held(captioner: Captioner) -> Held:
    return Held(captioner)


def failure(call: Any) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """The code of a failing call, and its details by name of their type."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    details: dict[str, Any] = {"message": caught.value.details()}
    for packed in status.details if status else ():
        kind = getattr(error_details_pb2, packed.TypeName().rsplit(".", 1)[1])
        details[kind.DESCRIPTOR.name] = detail = kind()
        assert packed.Unpack(detail)
    if "ErrorInfo" in details:
        assert details["ErrorInfo"].domain == "captioner"
    return caught.value.code(), details


def reason(details: dict[str, Any]) -> str:
    return details["ErrorInfo"].reason if "ErrorInfo" in details else ""


def fields(details: dict[str, Any]) -> set[str]:
    return {violation.field for violation in details["BadRequest"].field_violations}


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# Captions


def test_captions_are_those_of_the_library(stub: Any, captioner: Captioner) -> None:
    request = pb.CaptionImageRequest(image=jpeg(), beam_size=5, max_words=6, captions=2, length_power=0.5)
    response = stub.CaptionImage(request, timeout=10)
    expected = captioner.caption(jpeg(), beam_size=5, max_words=6, captions=2, length_power=0.5)
    assert [caption.text for caption in response.captions] == [caption.text for caption in expected]
    assert [caption.score for caption in response.captions] == pytest.approx([c.score for c in expected], abs=1e-4)
    for got, wanted in zip(response.captions, expected, strict=True):
        assert [word.text for word in got.words] == [word.text for word in wanted.words]
        assert [w.log_prob for w in got.words] == pytest.approx([w.log_prob for w in wanted.words], abs=1e-4)
        assert got.log_prob == pytest.approx(wanted.log_prob, abs=1e-4)
        assert not any(word.HasField("attention") for word in got.words)


def test_answer_names_its_model_and_the_time_of_each_stage(stub: Any, captioner: Captioner) -> None:
    response = stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), model=captioner.bundle.name), timeout=10)
    assert (response.model, response.model_version) == (captioner.bundle.name, captioner.bundle.version)
    stages = response.stage_durations
    assert all(stage.ToNanoseconds() > 0 for stage in (stages.decode, stages.encode, stages.search))


def test_three_captions_unless_said_otherwise(stub: Any) -> None:
    assert len(stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions) == 3
    assert len(stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), beam_size=2), timeout=10).captions) == 2


def test_attention_on_request(stub: Any, captioner: Captioner) -> None:
    response = stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), include_attention=True), timeout=10)
    rows, columns, _ = captioner.bundle.grid
    words = [word for caption in response.captions for word in caption.words]
    assert words
    for word in words:
        assert (word.attention.rows, word.attention.columns) == (rows, columns)
        assert len(word.attention.weights) == rows * columns
        assert sum(word.attention.weights) == pytest.approx(1, abs=1e-3)


def test_attention_of_a_model_without(tiny_bundle_inject: Path) -> None:
    with (
        running(Captioner.load(tiny_bundle_inject, threads=1)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        assert not stub.GetModel(pb.GetModelRequest(), timeout=10).model.has_attention
        assert stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions
        request = pb.CaptionImageRequest(image=jpeg(), include_attention=True)
        code, details = failure(lambda: stub.CaptionImage(request, timeout=10))
    assert (code, reason(details)) == (grpc.StatusCode.FAILED_PRECONDITION, "ATTENTION_UNAVAILABLE")


# The caller's mistakes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beam_size", 0),
        ("beam_size", 21),
        ("max_words", -1),
        ("max_words", 51),
        ("captions", 0),
        ("captions", 8),
        ("length_power", -0.1),
        ("length_power", 2.1),
        ("length_power", float("nan")),
    ],
)
def test_option_out_of_range(stub: Any, field: str, value: float) -> None:
    request = pb.CaptionImageRequest(image=jpeg(), **{field: value})  # type: ignore[arg-type]
    code, details = failure(lambda: stub.CaptionImage(request, timeout=10))
    assert (code, reason(details)) == (grpc.StatusCode.INVALID_ARGUMENT, "OPTION_OUT_OF_RANGE")
    assert fields(details) == {field}
    assert str(value) in details["message"]


def test_every_bad_option_is_named(stub: Any) -> None:
    request = pb.CaptionImageRequest(image=jpeg(), beam_size=99, max_words=0, captions=21, length_power=9)
    _, details = failure(lambda: stub.CaptionImage(request, timeout=10))
    assert fields(details) == {"beam_size", "max_words", "captions", "length_power"}


@pytest.mark.parametrize("name", ["beam_size", "max_words", "captions", "length_power"])
def test_maxima_are_the_ends_of_the_ranges(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(MAXIMA, **{name: getattr(MAXIMA, name) + 1})


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (b"", "EMPTY_IMAGE"),
        (random.Random(1).randbytes(500), "UNSUPPORTED_FORMAT"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "UNSUPPORTED_FORMAT"),
        (jpeg()[:-500], "CORRUPT_IMAGE"),
        (bytes(ImageLimits().max_bytes + 1), "IMAGE_TOO_LARGE_BYTES"),
        (jpeg(height=1, width=1), "IMAGE_TOO_SMALL"),
    ],
    ids=["empty", "noise", "svg", "truncated", "too large", "too small"],
)
def test_picture_that_cannot_be_used(stub: Any, image: bytes, expected: str) -> None:
    code, details = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=image), timeout=10))
    assert (code, reason(details)) == (grpc.StatusCode.INVALID_ARGUMENT, expected)
    assert fields(details) == {"image"}


def test_message_too_large_for_grpc_has_no_reason(stub: Any) -> None:
    request = pb.CaptionImageRequest(image=bytes(MESSAGE_BYTES + 1))
    code, details = failure(lambda: stub.CaptionImage(request, timeout=10))
    assert (code, reason(details)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")


@pytest.mark.parametrize("name", ["another", "x" * 100_000])
def test_unknown_model(stub: Any, name: str) -> None:
    for call in (
        lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg(), model=name), timeout=10),
        lambda: stub.GetModel(pb.GetModelRequest(model=name), timeout=10),
    ):
        code, details = failure(call)
        assert (code, reason(details)) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")


# Faults of the moment, and ours


def test_deadline_ends_the_work(held: Held) -> None:
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        held.hold()
        code, _ = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=0.3))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: server.server.worker._admitted == 0)
        held.let_go()
        assert stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions
        assert held.searches == 1  # of the second call alone


def test_cancelled_calls_are_dropped(held: Held) -> None:
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        held.hold()
        calls = [stub.CaptionImage.future(pb.CaptionImageRequest(image=jpeg()), timeout=10) for _ in range(3)]
        assert held.entered.wait(10)
        wait_until(lambda: server.server.worker._admitted == 3)
        for call in calls:
            call.cancel()
        wait_until(lambda: server.server.worker._admitted == 0)
        held.let_go()
        assert stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions
        assert held.searches == 1


def test_full_queue_refuses_at_once(held: Held) -> None:
    with running(held, max_queue=2) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        held.hold()
        calls = [stub.CaptionImage.future(pb.CaptionImageRequest(image=jpeg()), timeout=10) for _ in range(2)]
        wait_until(lambda: server.server.worker._admitted == 2)
        code, details = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10))
        assert (code, reason(details)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        assert health(channel) == SERVING
        held.let_go()
        assert all(call.result().captions for call in calls)


def test_fault_of_ours_gives_an_id_and_nothing_else(captioner: Captioner, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Held):
        broken = False

        def encode(self, pixels_BHW3: Any) -> Any:
            if self.broken:
                raise KeyError("secret")
            return super().encode(pixels_BHW3)

    broken = Broken(captioner)
    with running(broken) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        broken.broken = True
        code, details = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10))
    assert (code, reason(details)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in details["message"]
    number = details["ErrorInfo"].metadata["id"]
    [record] = [record for record in caplog.records if number in record.getMessage()]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_status_fits_into_metadata() -> None:
    status = errors.status_of(errors.OptionsError(dict.fromkeys("abcd", "x" * 10000)))
    assert status.ByteSize() < 4096


# Health, drain, reflection, the model


def health(channel: grpc.Channel, service: str = SERVICE) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def test_not_serving_before_the_warm_up(captioner: Captioner) -> None:
    with running(captioner, warm=False) as server, grpc.insecure_channel(server.target) as channel:
        assert health(channel) == health(channel, "") == NOT_SERVING
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        code, details = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10))
        assert (code, reason(details)) == (grpc.StatusCode.UNAVAILABLE, "LOADING")
        server.run(server.server.warm_up())
        assert health(channel) == health(channel, "") == SERVING
        assert stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10).captions


def test_warm_up_that_fails_never_serves(held: Held) -> None:
    held.search = lambda grid_BPC, options: [[]]  # type: ignore[method-assign]
    with running(held, warm=False) as server, grpc.insecure_channel(server.target) as channel:
        with pytest.raises(RuntimeError, match="warm-up"):
            server.run(server.server.warm_up())
        assert health(channel) == NOT_SERVING


def test_drain_finishes_calls_and_refuses_new_ones(held: Held) -> None:
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        stub = captioner_pb2_grpc.CaptionServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))  # type: ignore[no-untyped-call]
        assert next(watch).status == SERVING
        held.hold()
        call = stub.CaptionImage.future(pb.CaptionImageRequest(image=jpeg()), timeout=10)
        assert held.entered.wait(10)
        server.loop.call_soon_threadsafe(lambda: server.loop.create_task(server.server.drain()))
        assert next(watch).status == NOT_SERVING
        wait_until(lambda: server.server.worker.state.name == "DRAINING")
        code, details = failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=jpeg()), timeout=10))
        assert (code, reason(details)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        held.let_go()
        assert call.result().captions


def test_reflection_tells_the_services(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, file = stub.ServerReflectionInfo(iter(requests), timeout=10)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {"captioner.v1.CaptionService", "grpc.health.v1.Health"}
    assert file.file_descriptor_response.file_descriptor_proto


def test_get_model(stub: Any, captioner: Captioner) -> None:
    model = stub.GetModel(pb.GetModelRequest(), timeout=10).model
    assert (model.name, model.version) == (captioner.bundle.name, captioner.bundle.version)
    assert (model.precision, model.provider) == ("int8", "cpu")
    assert model.vocabulary_size == len(captioner.bundle.vocabulary) - 4
    assert model.has_attention
    assert model.search_defaults.beam_size == captioner.bundle.search.beam_size
    assert model.search_defaults.captions == 3
    assert SearchOptions(model.search_maxima.beam_size, model.search_maxima.max_words, 20, 2.0) == MAXIMA
    assert model.image_limits.max_bytes == 16 * 2**20 < MESSAGE_BYTES
    assert model.image_limits.max_pixels == 40_000_000


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="max_queue must be at least 1, got 0"):
        ServerSettings(max_queue=0)
    with pytest.raises(ValueError, match="port must be in"):
        ServerSettings(port=70_000)


# The command


def start(bundle: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services", "--bundle", str(bundle), "--port", "0", "--threads", "1", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "LANG": "C"})


def test_sigterm_lets_calls_finish(tiny_bundle: Path) -> None:
    process = start(tiny_bundle)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        target = next(match[1] for line in lines if (match := re.search(r"listening on (\S+)", line)))
        assert any(" serving " in line for line in lines)
        with grpc.insecure_channel(target, OPTIONS) as channel:
            stub = captioner_pb2_grpc.CaptionServiceStub(channel)
            large = jpeg(height=4000, width=6000, quality=50)  # takes a while to decode
            calls = [stub.CaptionImage.future(pb.CaptionImageRequest(image=large), timeout=60) for _ in range(8)]
            wait_until(lambda: any(call.done() for call in calls))
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: health(channel) == NOT_SERVING)
            assert not all(call.done() for call in calls)
            assert all(call.result().captions for call in calls)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def test_folder_without_a_bundle(tmp_path: Path) -> None:
    process = start(tmp_path)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert text.startswith("error: ")
    assert "Traceback" not in text


def test_port_that_is_taken(tiny_bundle: Path, server: Running) -> None:
    process = start(tiny_bundle, "--port", server.target.rsplit(":", 1)[1])
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot listen on" in text
    assert "Traceback" not in text
