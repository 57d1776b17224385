"""The client against a real server, and against servers that fail."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from captioner import Captioner, SearchOptions
from captioner.client import MESSAGE_BYTES, Client, ClientError
from captioner.images import ImageLimits
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.errors import NotReadyError
from services.worker import Outcome
from tests.running_server import Held, Running, jpeg, running


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def server(captioner: Captioner) -> Iterator[Running]:
    with running(captioner) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with Client(server.target) as opened:
        yield opened


def test_captions_equal_those_of_the_library(client: Client, captioner: Captioner, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    got = client.caption(path, beam_size=4, max_words=5, captions=2, length_power=0.7, attention=True)
    wanted = captioner.caption(path, beam_size=4, max_words=5, captions=2, length_power=0.7)
    assert [caption.text for caption in got] == [caption.text for caption in wanted]
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        for mine, other in zip(ours.words, theirs.words, strict=True):
            assert mine.text == other.text
            assert mine.attention is not None
            assert other.attention is not None
            np.testing.assert_allclose(mine.attention, other.attention, atol=1e-4)


def test_attention_only_on_request(client: Client) -> None:
    assert all(word.attention is None for caption in client.caption(jpeg()) for word in caption.words)


def test_model(client: Client, captioner: Captioner) -> None:
    model = client.model()
    assert (model.name, model.version) == (captioner.bundle.name, captioner.bundle.version)
    assert model.has_attention
    assert model.search_defaults.beam_size == captioner.bundle.search.beam_size
    assert model.search_maxima.beam_size == 20
    assert model.image_limits == ImageLimits()


def test_error_has_code_reason_and_fields(client: Client) -> None:
    with pytest.raises(ClientError, match=r"INVALID_ARGUMENT \(OPTION_OUT_OF_RANGE\)") as caught:
        client.caption(jpeg(), beam_size=21)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "OPTION_OUT_OF_RANGE")
    assert "[1, 20]" in caught.value.violations["beam_size"]
    assert caught.value.retry_after is None


def test_largest_picture_reaches_the_server_and_a_larger_one_does_not(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.caption(bytes(ImageLimits().max_bytes + 1))
    assert caught.value.reason == "IMAGE_TOO_LARGE_BYTES"
    with pytest.raises(ClientError) as caught:
        client.caption(bytes(MESSAGE_BYTES + 1))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")


def test_full_queue_says_when_to_come_back(captioner: Captioner) -> None:
    held = Held(captioner)
    with running(held, max_queue=1) as server, Client(server.target) as client, ThreadPoolExecutor(1) as pool:
        held.hold()
        first = pool.submit(client.caption, jpeg())
        assert held.entered.wait(10)
        with pytest.raises(ClientError) as caught:
            client.caption(jpeg())
        held.let_go()
        assert first.result()
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0


def test_every_call_has_a_deadline(captioner: Captioner) -> None:
    held = Held(captioner)
    with running(held) as server, Client(server.target, timeout=0.3) as client:
        held.hold()
        with pytest.raises(ClientError) as caught:
            client.caption(jpeg())
        held.let_go()
        assert client.caption(jpeg(), timeout=10)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "")


def test_no_server() -> None:
    with Client("127.0.0.1:1", timeout=2) as client, pytest.raises(ClientError) as caught:
        client.model()
    assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert caught.value.reason == ""


class Flaky(captioner_pb2_grpc.CaptionServiceServicer):
    """Fails a number of times before it answers."""

    def __init__(self, code: grpc.StatusCode, failures: int):
        self.code = code
        self.failures = failures
        self.calls = 0

    def CaptionImage(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls += 1
        if self.calls <= self.failures:
            context.abort(self.code, "not now")
        return pb.CaptionImageResponse(captions=[pb.Caption(text=str(len(request.image)))])


@contextmanager
def flaky_server(flaky: Flaky) -> Iterator[str]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", MESSAGE_BYTES)])
        captioner_pb2_grpc.add_CaptionServiceServicer_to_server(flaky, server)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_unavailable_is_tried_again_with_a_whole_photo() -> None:
    flaky = Flaky(grpc.StatusCode.UNAVAILABLE, failures=2)
    with flaky_server(flaky) as target, Client(target) as client:
        [caption] = client.caption(bytes(3 * 2**20))
    assert caption.text == str(3 * 2**20)
    assert flaky.calls == 3


def test_a_server_that_still_loads_is_tried_again(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(captioner) as server, Client(server.target) as client:
        worker = server.server.worker
        refusals = iter(["LOADING", "LOADING"])
        caption = worker.caption

        async def refuse_twice(image: bytes, options: SearchOptions) -> Outcome:
            for reason in refusals:
                raise NotReadyError(reason)
            return await caption(image, options)

        monkeypatch.setattr(worker, "caption", refuse_twice)
        assert client.caption(jpeg())
        assert next(refusals, None) is None


def test_nothing_else_is_tried_again() -> None:
    flaky = Flaky(grpc.StatusCode.RESOURCE_EXHAUSTED, failures=2)
    with flaky_server(flaky) as target, Client(target) as client, pytest.raises(ClientError):
        client.caption(b"photo")
    assert flaky.calls == 1
