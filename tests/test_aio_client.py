"""The asyncio client: the same answers as the other one, and what asyncio adds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from captioner import Captioner
from captioner.aio_client import AsyncClient
from captioner.client import Client, ClientError
from tests.fake_server import FULL, UNAVAILABLE, Planned, listening
from tests.running_server import Held, Running, jpeg, running


@pytest.fixture(scope="module")
def server(tiny_bundle_answers: Path) -> Iterator[Running]:
    with running(Captioner.load(tiny_bundle_answers, "fp32", threads=1)) as running_server:
        yield running_server


def test_every_method_answers_as_the_other_client(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())

    async def ask() -> None:
        async with AsyncClient(server.target) as client:
            captions = await client.caption(path, beam_size=3, request_id="abc")
            assert [caption.text for caption in captions] == [c.text for c in other.caption(jpeg(), beam_size=3)]
            assert captions.served.request_id == "abc"
            answered = await client.answer(jpeg(), "what is it?", top=2)
            assert answered.answers == other.answer(jpeg(), "what is it?", top=2).answers
            figure = await client.draw_attention(path, question="what is it?")
            assert figure.png == other.draw_attention(jpeg(), question="what is it?").png
            assert await client.model() == other.model()
            assert await client.models() == other.models()

    with Client(server.target) as other:
        asyncio.run(ask())


def test_errors_are_the_same(server: Running) -> None:
    async def ask() -> None:
        async with AsyncClient(server.target) as client:
            with pytest.raises(ClientError) as caught:
                await client.caption(b"not a photo", request_id="abc")
            error = caught.value
            assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_FORMAT")
            assert (list(error.violations), error.request_id) == (["image"], "abc")
            with pytest.raises(FileNotFoundError):
                await client.caption("nowhere.jpg")
            with pytest.raises(ValueError, match="concurrency must be at least 1, got 0"):
                await anext(client.caption_many([], 0))

    asyncio.run(ask())


def test_a_deadline_and_a_cancelled_call(tiny_bundle_answers: Path) -> None:
    held = Held(Captioner.load(tiny_bundle_answers, threads=1))

    async def ask(running_server: Running) -> None:
        async with AsyncClient(running_server.target, timeout=0.3) as client:
            with pytest.raises(ClientError) as caught:
                await client.caption(jpeg())
            assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
            task = asyncio.create_task(client.caption(jpeg(), timeout=20))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            held.let_go()
            assert await client.caption(jpeg(), timeout=10)

    with running(held) as running_server:
        held.hold()
        asyncio.run(ask(running_server))


def test_unavailable_and_if_asked_to_full_servers_are_tried_again() -> None:
    planned = Planned(UNAVAILABLE, FULL, FULL)

    async def ask(target: str) -> None:
        async with AsyncClient(target, retry_when_full=True) as client:
            assert (await client.caption(b"photo"))[0].text == "5"
        planned.plan = [FULL]
        async with AsyncClient(target, token="open-sesame") as client:
            with pytest.raises(ClientError, match="QUEUE_FULL"):
                await client.caption(b"photo")

    with listening(planned) as target:
        asyncio.run(ask(target))
    assert planned.calls == 5
    assert planned.metadata[-1]["authorization"] == "Bearer open-sesame"


def test_several_servers_of_which_one_is_not_there() -> None:
    planned = Planned()

    async def ask(target: str) -> None:
        async with AsyncClient(f"127.0.0.1:1,{target}") as client:
            await asyncio.gather(*(client.caption(b"photo") for _ in range(6)))

    with listening(planned) as target:
        asyncio.run(ask(target))
    assert planned.calls == 6


def test_many_photos_by_place_by_key_and_as_they_come(server: Running, tmp_path: Path) -> None:
    photos = [jpeg(), b"not a photo", tmp_path / "none.jpg", jpeg(shade=40)]
    kinds = ["CaptionReply", "ClientError", "FileNotFoundError", "CaptionReply"]

    async def coming() -> AsyncIterator[bytes | Path]:
        for photo in photos:
            await asyncio.sleep(0)
            yield photo

    async def ask() -> None:
        async with AsyncClient(server.target) as client:
            for many in (client.caption_many, client.caption_stream):
                for given in (photos, dict(enumerate(photos)), coming()):
                    found = {key: outcome async for key, outcome in many(given, 2, beam_size=2)}
                    assert [type(found[n]).__name__ for n in range(4)] == kinds
                    assert found[1].reason == "UNSUPPORTED_FORMAT"
                assert [pair async for pair in many([])] == []

    asyncio.run(ask())


def test_at_most_so_many_photos_are_in_memory_and_in_flight() -> None:
    planned = Planned()
    taken: list[int] = []

    def photos() -> Iterator[bytes]:
        for n in range(20):
            taken.append(n)
            yield b"photo"

    async def ask(target: str) -> None:
        async with AsyncClient(target) as client:
            for many in (client.caption_many, client.caption_stream):
                taken.clear()
                done = 0
                async for _ in many(photos(), 3):
                    done += 1
                    assert len(taken) <= done + 3
                assert len(taken) == done == 20

    with listening(planned) as target:
        asyncio.run(ask(target))
    assert planned.most_running <= 3


@pytest.mark.parametrize("many", ["caption_many", "caption_stream"])
def test_whoever_leaves_early_need_not_wait(many: str) -> None:
    planned = Planned()

    async def ask(target: str) -> None:
        async with AsyncClient(target) as client:
            found = getattr(client, many)((b"photo" for _ in range(1000)), 4)
            await anext(found)
            planned.gate.clear()
            begun = time.monotonic()
            await found.aclose()
            assert time.monotonic() - begun < 5
            planned.gate.set()
            assert await client.caption(b"photo")

    with listening(planned) as target:
        asyncio.run(ask(target))
    assert planned.calls < 20


@pytest.mark.parametrize("many", ["caption_many", "caption_stream"])
def test_an_error_of_the_callers_own_photos_reaches_the_caller(many: str) -> None:
    def photos() -> Iterator[bytes]:
        yield b"photo"
        yield b"photo"
        raise RuntimeError("the disk is on fire")

    async def ask(target: str) -> None:
        async with AsyncClient(target) as client:
            with pytest.raises(RuntimeError, match="on fire"):
                [pair async for pair in getattr(client, many)(photos(), 2)]

    with listening(Planned()) as target:
        asyncio.run(ask(target))
