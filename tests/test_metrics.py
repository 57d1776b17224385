"""What Prometheus reads, over HTTP, after calls of known number and outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from captioner import Captioner
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.errors import Failure
from services.metrics import Metrics
from services.server import ListenError
from tests.running_server import Held, Running, failure, jpeg, running, scrape, value, wait_until


@pytest.fixture
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1)


def stub_of(channel: grpc.Channel) -> Any:
    return captioner_pb2_grpc.CaptionServiceStub(channel)


def test_calls_stages_and_models(captioner: Captioner) -> None:
    name = captioner.bundle.name
    with running(captioner, metrics_port=0) as server, grpc.insecure_channel(server.target) as channel:
        before = scrape(server.server.metrics_port)
        stub, request = stub_of(channel), pb.CaptionImageRequest(image=jpeg())
        for _ in range(3):
            stub.CaptionImage(request, timeout=10)
        failure(lambda: stub.CaptionImage(pb.CaptionImageRequest(image=b"x"), timeout=10))
        failure(lambda: stub.GetModel(pb.GetModelRequest(model="none"), timeout=10))
        empty = pb.CaptionImageRequest()
        pictures = [pb.StreamCaptionImagesRequest(id=str(n), request=empty) for n in range(4)]
        assert len(list(stub.StreamCaptionImages(iter(pictures), timeout=10))) == 4
        wait_until(lambda: server.server.calls.active == 0)
        after = scrape(server.server.metrics_port)

    def grown(metric: str, **labels: str) -> float:
        key = f"captioner_{metric}", frozenset(labels.items())
        return after[key] - before.get(key, 0.0)

    assert value(after, "requests_total", method="CaptionImage", code="OK") == 3
    assert value(after, "requests_total", method="CaptionImage", code="INVALID_ARGUMENT") == 1
    assert value(after, "requests_total", method="GetModel", code="NOT_FOUND") == 1
    assert value(after, "requests_total", method="StreamCaptionImages", code="OK") == 1
    assert value(after, "request_seconds_count", method="CaptionImage") == 4
    assert value(after, "rejected_total", reason="invalid") == 6
    assert value(after, "rejected_total", reason="queue_full") == 0
    assert grown("memory_misses_total", model=name) >= 1
    assert value(after, "memory_hits_total", model=name) == 2
    assert value(after, "queue_seconds_count", model=name) == 3
    assert grown("stage_seconds_count", model=name, stage="encode") == 1
    assert grown("batch_images_sum", model=name, stage="search") == 3
    assert value(after, "admitted_images") == 0
    assert value(after, "provider_is_gpu") == 0
    info = {"name": name, "version": captioner.bundle.version, "precision": captioner.precision, "provider": "cpu"}
    assert value(after, "model_info", **info) == 1
    assert value(after, "reloads_total", outcome="ok") == 0
    assert ("process_open_fds", frozenset()) in after


def test_images_that_are_let_in_and_those_that_are_not(captioner: Captioner) -> None:
    held = Held(captioner)
    with running(held, max_queue=1, metrics_port=0) as server, grpc.insecure_channel(server.target) as channel:
        stub, request = stub_of(channel), pb.CaptionImageRequest(image=jpeg())
        held.hold()
        call = stub.CaptionImage.future(request, timeout=10)
        wait_until(lambda: server.admitted == 1)
        failure(lambda: stub.CaptionImage(request, timeout=10))
        scraped = scrape(server.server.metrics_port)
        assert value(scraped, "admitted_images") == 1
        assert value(scraped, "rejected_total", reason="queue_full") == 1
        call.cancel()
        wait_until(lambda: server.admitted == 0)
        failure(lambda: stub.CaptionImage(request, timeout=0.5))
        held.let_go()
        wait_until(lambda: server.server.calls.active == 0)
        scraped = scrape(server.server.metrics_port)
    assert value(scraped, "rejected_total", reason="cancelled") == 1
    assert value(scraped, "rejected_total", reason="deadline") == 1
    assert value(scraped, "requests_total", method="CaptionImage", code="CANCELLED") == 1
    assert value(scraped, "requests_total", method="CaptionImage", code="DEADLINE_EXCEEDED") == 1


@pytest.mark.parametrize(
    ("code", "reason", "label"),
    [
        ("UNAUTHENTICATED", "TOKEN_MISSING", "unauthenticated"),
        ("UNAUTHENTICATED", "TOKEN_INVALID", "unauthenticated"),
        ("UNAVAILABLE", "DRAINING", "draining"),
        ("UNAVAILABLE", "LOADING", "draining"),
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", "queue_full"),
        ("FAILED_PRECONDITION", "ANSWERS_UNAVAILABLE", "invalid"),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", None),  # the engine tells of it
        ("INTERNAL", "INTERNAL", None),
    ],
)
def test_every_failure_counts_once(code: str, reason: str, label: str | None) -> None:
    metrics = Metrics()
    metrics.failed(Failure(grpc.StatusCode[code], reason))
    samples = {s.labels["reason"]: s.value for s in metrics.rejected.collect()[0].samples if s.name.endswith("_total")}
    assert {name for name, count in samples.items() if count} == ({label} if label else set())


def test_a_port_that_is_taken(captioner: Captioner) -> None:
    with (
        running(captioner, metrics_port=0, warm=False) as server,
        pytest.raises(ListenError, match="cannot listen on"),
        running(captioner, metrics_port=server.server.metrics_port),
    ):
        pass


def test_only_what_is_known_becomes_a_label(captioner: Captioner) -> None:
    with running(captioner, metrics_port=0) as server, grpc.insecure_channel(server.target) as channel:
        unknown = channel.unary_unary("/captioner.v1.CaptionService/Nonsense")
        assert failure(lambda: unknown(b"", timeout=10))[0] == grpc.StatusCode.UNIMPLEMENTED
        failure(lambda: stub_of(channel).GetModel(pb.GetModelRequest(model="nonsense"), timeout=10))
        scraped = scrape(server.server.metrics_port)
    assert not [key for key in scraped if "onsense" in str(key)]


def test_reloads_and_the_new_model_are_counted(captioner: Captioner) -> None:
    def reload(server: Running) -> bool:
        return server.run(server.server.reload())

    with running(captioner, metrics_port=0) as server:
        assert reload(server)
        assert value(scrape(server.server.metrics_port), "reloads_total", outcome="ok") == 1
