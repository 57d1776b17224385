"""`python -m services.cluster`: the same answers and errors through Ray Serve's proxy as from the plain server.

One local Ray for all tests, with 4 logical CPUs; the replica is killed in the last ones.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from captioner import Captioner
from captioner.client import Client, ClientError
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.cluster import main
from services.proxy import TIME_LEFT, _Told
from services.replica import Context
from services.server import SERVICE
from services.settings import EngineSettings
from tests.ray_serve import cluster, needs_ray, replicas
from tests.running_server import failure, fields, jpeg, reason, wait_until

TOKEN = "a-token-of-the-tests"
BEARER = (("authorization", f"Bearer {TOKEN}"),)


@pytest.fixture(scope="module")
def target(tiny_bundle_answers, tmp_path_factory):
    """The address of the proxy: one replica, which takes 4 pictures."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"tests {TOKEN}\n")
    tokens.chmod(0o600)
    with cluster([tiny_bundle_answers], EngineSettings(max_queue=4, threads=1), tokens_file=tokens) as target:
        yield target


@pytest.fixture(scope="module")
def client(target):
    with Client(target, timeout=60, token=TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def stub(target):
    with grpc.insecure_channel(target) as channel:
        yield captioner_pb2_grpc.CaptionServiceStub(channel)


@needs_ray
def test_captions_and_answers_are_those_of_the_engine(client, tiny_bundle_answers):
    captioner = Captioner.load(tiny_bundle_answers, threads=1)
    assert [caption.text for caption in client.caption(jpeg())] == [
        caption.text for caption in captioner.caption(jpeg())
    ]
    said, asked = client.answer(jpeg(), "what is the colour"), captioner.answer(jpeg(), "what is the colour")
    assert [answer.text for answer in said.answers] == [answer.text for answer in asked.answers]
    assert [model.name for model in client.models()] == ["tiny"]
    assert client.draw_attention(jpeg()).png.startswith(b"\x89PNG")


@needs_ray
def test_a_bad_picture_is_refused_in_full(stub):
    code, told = failure(
        lambda: stub.CaptionImage(pb.CaptionImageRequest(image=b"nothing"), timeout=60, metadata=BEARER)
    )
    assert (code, reason(told), fields(told)) == (grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_FORMAT", {"image"})
    assert told["request_id"]


@needs_ray
def test_in_a_stream_a_bad_picture_fails_alone(client):
    photos = {"good": jpeg(), "bad": b"nothing", "other": jpeg(shade=9)}
    found = dict(client.caption_stream(photos))
    assert found["bad"].reason == "UNSUPPORTED_FORMAT"
    assert found["good"][0].text == client.caption(photos["good"])[0].text


@needs_ray
def test_nobody_without_a_token_but_for_health(stub, target):
    def refused(*metadata):
        code, told = failure(lambda: stub.ListModels(pb.ListModelsRequest(), timeout=60, metadata=metadata))
        return code, reason(told)

    assert refused() == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    assert refused(("authorization", f"Bearer {TOKEN}x")) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    code, _ = failure(lambda: list(stub.StreamCaptionImages(iter(()), timeout=60)))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        code, _ = failure(lambda: next(health.Watch(health_pb2.HealthCheckRequest(), timeout=60)))
        assert code == grpc.StatusCode.UNIMPLEMENTED


@needs_ray
def test_more_than_fits_is_refused_with_when_to_come_back(client):
    def ask(shade):
        try:
            return bool(client.caption(jpeg(900, 900, shade=shade)))
        except ClientError as error:
            return error.code, error.reason, error.retry_after is not None

    with ThreadPoolExecutor(24) as callers:
        outcomes = Counter(callers.map(ask, range(96)))
    assert set(outcomes) == {True, (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", True)}


@needs_ray
def test_a_killed_replica_costs_no_call(client):
    import ray

    def kill():
        (name,) = replicas()
        ray.kill(ray.get_actor(name, "serve"))

    answered, stop = Counter(), threading.Event()

    def call(number):
        while not stop.is_set():
            client.caption(jpeg(shade=number + answered[number] % 100))
            answered[number] += 1

    with ThreadPoolExecutor(3) as callers:
        calls = [callers.submit(call, number) for number in range(3)]
        wait_until(lambda: sum(answered.values()) > 10, 60)
        kill()
        before = sum(answered.values())
        wait_until(lambda: sum(answered.values()) > before + 10 or any(call.done() for call in calls), 60)
        stop.set()
        for each in calls:
            each.result(60)


class FakeRay:
    """Ray's context."""

    def __init__(self, *metadata):
        self.metadata = metadata

    def invocation_metadata(self):
        return list(self.metadata)

    def time_remaining(self):
        return 2.5


def test_the_proxy_tells_the_deadline_whatever_a_caller_says():
    told = _Told(FakeRay(("a", "b"), (TIME_LEFT, "9999")))
    assert told.invocation_metadata() == [("a", "b"), (TIME_LEFT, "2.500000")]
    assert Context(told).time_remaining() == 2.5
    assert Context(FakeRay(("a", "b"))).time_remaining() is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--min-replicas", "3", "--max-replicas", "2"], "max_replicas must be at least 3, got 2"),
        (["--upscale-delay", "-1"], "upscale_delay_seconds must be at least 0, got -1"),
        (["--max-waiting", "0"], "max_waiting must be at least 1, got 0"),
        ([], "manifest.json cannot be read"),
        (["--tokens", "missing"], "manifest.json cannot be read"),
    ],
)
def test_what_cannot_be_is_said_before_ray_starts(arguments, complaint, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: .*{complaint}"):
        main(["--bundle", str(tmp_path), *arguments])


def test_a_port_that_is_taken_is_said_before_ray_starts(tiny_bundle):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit, match=f"^error: port {port} is taken"):
            main(["--bundle", str(tiny_bundle), "--port", str(port)])
