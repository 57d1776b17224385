"""StreamCaptionImages: the order of results, reading ahead, pictures that fail alone, and every way to end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest

from captioner import Captioner
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.caption_service import READ_AHEAD
from services.errors import NotReadyError
from services.stream import as_finished
from tests.running_server import (
    Held,
    Running,
    failure,
    fields,
    jpeg,
    reason,
    running,
    scrape,
    told,
    unpacked,
    value,
    wait_until,
)


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle, threads=1, memory_bytes=0)


@pytest.fixture(scope="module")
def server(captioner: Captioner) -> Iterator[Running]:
    with running(captioner) as running_server:
        yield running_server


def stub(channel: grpc.Channel) -> Any:
    return captioner_pb2_grpc.CaptionServiceStub(channel)


def picture(name: str, image: bytes | None = None, **options: Any) -> pb.StreamCaptionImagesRequest:
    request = pb.CaptionImageRequest(image=jpeg() if image is None else image, **options)
    return pb.StreamCaptionImagesRequest(id=name, request=request)


# as_finished alone: requests are seconds to sleep, or an exception to raise


async def given(*requests: Any, read: list[Any] | None = None) -> AsyncIterator[Any]:
    for request in requests:
        if read is not None:
            read.append(request)
        if isinstance(request, Exception):
            raise request
        yield request


async def slept(seconds: float) -> float:
    await asyncio.sleep(abs(seconds))
    if seconds < 0:
        raise ValueError(str(seconds))
    return seconds


def collect(requests: AsyncIterator[Any], ahead: int = 16) -> tuple[list[Any], Exception | None]:
    async def run() -> tuple[list[Any], Exception | None]:
        results = []
        try:
            async for result in as_finished(requests, slept, ahead, asyncio.Event()):
                results.append(result)
        except Exception as error:
            return results, error
        return results, None

    return asyncio.run(run())


def test_results_come_as_they_finish() -> None:
    assert collect(given(0.2, 0.1, 0.0)) == ([0.0, 0.1, 0.2], None)
    assert collect(given()) == ([], None)


def test_one_at_a_time_is_in_order() -> None:
    assert collect(given(0.02, 0.01, 0.0), ahead=1) == ([0.02, 0.01, 0.0], None)


@pytest.mark.parametrize("last", [-0.05, ValueError("of the source")])
def test_what_was_begun_is_finished_before_an_error_is_raised(last: Any) -> None:
    results, error = collect(given(0.2, 0.1, last, 0.0))
    assert (results, type(error)) == ([0.1, 0.2] if last != -0.05 else [0.0, 0.1, 0.2], ValueError)


def test_no_more_is_read_than_was_taken_and_so_many() -> None:
    read: list[float] = []

    async def run() -> list[int]:
        counts = []
        async with aclosing(as_finished(given(*[0.0] * 9, read=read), slept, 3, asyncio.Event())) as results:
            async for _ in results:
                await asyncio.sleep(0.02)
                counts.append(len(read))
        return counts

    counts = asyncio.run(run())
    assert all(count <= taken + 3 for taken, count in enumerate(counts, 1))
    assert counts[-1] == 9


def test_closing_finishes_what_was_begun_and_raises() -> None:
    async def run() -> list[float]:
        closing = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, closing.set)

        async def endless() -> AsyncIterator[float]:
            yield 0.1
            await asyncio.Event().wait()

        results = []
        try:
            async for result in as_finished(endless(), slept, 4, closing):
                results.append(result)
        except NotReadyError:
            return results
        raise AssertionError("it was not closed")

    assert asyncio.run(run()) == [0.1]


def test_closed_early_it_cancels_what_was_begun() -> None:
    cancelled = []

    async def work(request: float) -> float:
        try:
            await asyncio.sleep(request)
        except asyncio.CancelledError:
            cancelled.append(request)
            raise
        return request

    async def run() -> None:
        async with aclosing(as_finished(given(0.05, 30.0, 40.0), work, 4, asyncio.Event())) as results:
            async for _ in results:
                break
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
    assert sorted(cancelled) == [30.0, 40.0]


# Over a socket


def test_every_picture_gets_its_own_status(server: Running) -> None:
    pictures = [
        picture("good"),
        picture("empty", b""),
        picture("noise", b"not a picture"),
        picture("option", beam_size=0, max_words=99),
        picture("model", model="another"),
        picture("last", beam_size=1),
        picture(""),
        picture("x" * 129),
        picture("good"),
    ]
    with grpc.insecure_channel(server.target) as channel:
        responses = list(stub(channel).StreamCaptionImages(iter(pictures), timeout=20))
    by_id: dict[str, list[Any]] = {}
    for response in responses:
        by_id.setdefault(response.id, []).append(response)
    assert {name: len(found) for name, found in by_id.items()} == {
        "good": 2, "empty": 1, "noise": 1, "option": 1, "model": 1, "last": 1, "": 1, "x" * 128: 1,
    }  # fmt: skip
    for name in ("good", "last"):
        assert all(response.response.captions for response in by_id[name])
    told_of = {name: found[0].error for name, found in by_id.items() if found[0].WhichOneof("outcome") == "error"}
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.NOT_FOUND.value[0]
    for name, code, why, named in [
        ("empty", invalid, "EMPTY_IMAGE", {"image"}),
        ("noise", invalid, "UNSUPPORTED_FORMAT", {"image"}),
        ("option", invalid, "OPTION_OUT_OF_RANGE", {"beam_size", "max_words"}),
        ("model", missing, "UNKNOWN_MODEL", set()),
        ("", invalid, "OPTION_OUT_OF_RANGE", {"id"}),
        ("x" * 128, invalid, "OPTION_OUT_OF_RANGE", {"id"}),
    ]:
        details = unpacked(told_of[name].details)
        assert (told_of[name].code, reason(details), fields(details)) == (code, why, named)
        assert told_of[name].message


def test_captions_are_those_of_a_single_call(server: Running) -> None:
    with grpc.insecure_channel(server.target) as channel:
        [streamed] = stub(channel).StreamCaptionImages(iter([picture("1", beam_size=3)]), timeout=10)
        single = stub(channel).CaptionImage(picture("1", beam_size=3).request, timeout=10)
    assert [c.text for c in streamed.response.captions] == [c.text for c in single.captions]


def test_an_empty_stream_ends(server: Running) -> None:
    with grpc.insecure_channel(server.target) as channel:
        assert list(stub(channel).StreamCaptionImages(iter([]), timeout=10)) == []


def test_a_slow_picture_does_not_hold_up_the_others(captioner: Captioner) -> None:
    class Slow(Held):
        """Stands still when it reads one picture."""

        def pixels(self, photo: bytes) -> Any:
            if photo == slow:
                assert self._gate.wait(30)
            return self._captioner.pixels(photo)

        def encode(self, pixels_BHW3: Any, stop: Any = None) -> Any:
            return self._captioner.encode(pixels_BHW3, stop)

    slow = jpeg(shade=9)
    held = Slow(captioner)
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        held.hold()
        responses = stub(channel).StreamCaptionImages(
            iter([picture("slow", slow), picture("1"), picture("2")]), timeout=20
        )
        first = {next(responses).id, next(responses).id}
        held.let_go()
        assert first == {"1", "2"}
        assert [response.id for response in responses] == ["slow"]


def endless(sent: Queue[Any], begun: threading.Event | None = None) -> Iterator[Any]:
    """Requests from a queue, until None."""
    while (request := sent.get()) is not None:
        yield request


def test_reads_ahead_so_far_and_no_further(captioner: Captioner) -> None:
    held = Held(captioner)
    sent = 0

    def counted() -> Iterator[Any]:
        nonlocal sent
        for n in range(60):
            sent += 1
            yield picture(str(n), jpeg(1200, 1200, 100, shade=n))  # larger than what a socket holds

    with running(held, max_queue=64) as server, grpc.insecure_channel(server.target) as channel:
        held.hold()
        responses = stub(channel).StreamCaptionImages(counted(), timeout=60)
        wait_until(lambda: server.admitted == READ_AHEAD)
        time.sleep(0.3)
        assert server.admitted == READ_AHEAD
        held.let_go()
        assert sorted(int(response.id) for response in responses if response.response.captions) == list(range(60))


def test_cancelled_in_the_middle_everything_is_dropped(captioner: Captioner) -> None:
    held = Held(captioner)
    sent: Queue[Any] = Queue()
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        held.hold()
        for n in range(5):
            sent.put(picture(str(n), jpeg(shade=n)))
        responses = stub(channel).StreamCaptionImages(endless(sent), timeout=60)
        wait_until(lambda: server.admitted == 5)
        responses.cancel()
        sent.put(None)
        wait_until(lambda: server.admitted == 0)
        held.let_go()
        assert stub(channel).CaptionImage(picture("").request, timeout=10).captions
        assert held.searches == 1
        wait_until(lambda: server.server.calls.active == 0)


def test_a_client_that_vanishes_leaves_nothing_behind(captioner: Captioner) -> None:
    held = Held(captioner)
    sent: Queue[Any] = Queue()
    with running(held) as server:
        held.hold()
        channel = grpc.insecure_channel(server.target)
        sent.put(picture("1"))
        responses = stub(channel).StreamCaptionImages(endless(sent))
        wait_until(lambda: server.admitted == 1)
        channel.close()
        sent.put(None)
        wait_until(lambda: server.admitted == 0 and server.server.calls.active == 0)
        held.let_go()
        with grpc.insecure_channel(server.target) as another:
            assert stub(another).CaptionImage(picture("").request, timeout=10).captions
    del responses


def test_the_deadline_of_a_stream_ends_it(captioner: Captioner) -> None:
    held = Held(captioner)
    with running(held, metrics_port=0) as server, grpc.insecure_channel(server.target) as channel:
        held.hold()
        code, _ = failure(lambda: list(stub(channel).StreamCaptionImages(iter([picture("1")]), timeout=0.3)))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: server.admitted == 0 and server.server.calls.active == 0)
        held.let_go()
        counted = scrape(server.server.metrics_port)
    assert value(counted, "requests_total", method="StreamCaptionImages", code="DEADLINE_EXCEEDED") == 1


def test_a_full_queue_fails_a_picture_and_not_the_stream(captioner: Captioner) -> None:
    held = Held(captioner)
    with running(held, max_queue=2) as server, grpc.insecure_channel(server.target) as channel:
        held.hold()
        responses = stub(channel).StreamCaptionImages(
            iter([picture(str(n), jpeg(shade=n)) for n in range(3)]), timeout=20
        )
        full = next(responses)
        details = unpacked(full.error.details)
        assert (full.error.code, reason(details)) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "QUEUE_FULL")
        assert details["RetryInfo"].retry_delay.ToNanoseconds() > 0
        held.let_go()
        assert all(response.response.captions for response in responses)


def test_a_drain_finishes_what_a_stream_has_sent_and_ends_it(captioner: Captioner) -> None:
    held = Held(captioner)
    sent: Queue[Any] = Queue()
    with running(held) as server, grpc.insecure_channel(server.target) as channel:
        held.hold()
        for n in range(3):
            sent.put(picture(str(n), jpeg(shade=n)))
        responses = stub(channel).StreamCaptionImages(endless(sent), timeout=20)
        wait_until(lambda: server.admitted == 3)
        server.begin(server.server.drain())
        wait_until(lambda: server.server.service.closing.is_set())
        held.let_go()
        finished = [next(responses) for _ in range(3)]
        assert all(response.response.captions for response in finished)
        with pytest.raises(grpc.RpcError) as caught:
            next(responses)
        code, details = told(caught.value)
        assert (code, reason(details)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        sent.put(None)


def test_a_stream_before_the_warm_up(captioner: Captioner) -> None:
    with running(captioner, warm=False) as server, grpc.insecure_channel(server.target) as channel:
        code, details = failure(lambda: list(stub(channel).StreamCaptionImages(iter([picture("1")]), timeout=10)))
    assert (code, reason(details)) == (grpc.StatusCode.UNAVAILABLE, "LOADING")


def test_bytes_that_are_no_message_end_the_stream_after_what_came_before(server: Running) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call = channel.stream_stream("/captioner.v1.CaptionService/StreamCaptionImages")(
            iter([picture("1").SerializeToString(), b"\xff\xff"]), timeout=10
        )
        assert pb.StreamCaptionImagesResponse.FromString(next(call)).id == "1"
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    code, details = told(caught.value)
    assert (code, reason(details)) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
