"""Calls that are held back: never of a server with room, nearly all of a full one, and never for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import cycle
from random import Random

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.aio_client import AsyncClient
from captioner.client import Client, ClientError
from captioner.throttle import FREE, FULL, HALF_LIFE, Throttle
from tests.fake_server import BROKEN, Planned, listening
from tests.fake_server import FULL as SERVER_FULL


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def offer(throttle: Throttle, clock: Clock, rate: float, seconds: float, room: Callable[[], bool]) -> tuple[int, int]:
    """How many calls were sent, and how many of these taken."""
    sent = taken = 0
    for _ in range(round(rate * seconds)):
        clock.now += 1 / rate
        if not throttle.refuses():
            sent += 1
            has_room = room()
            taken += has_room
            throttle.ended("" if has_room else FULL)
    return sent, taken


def test_the_formula_by_hand() -> None:
    for draw, refused in ((0.479, True), (0.481, False)):
        throttle = Throttle(2.0, lambda: 0.0, lambda: 1.0)
        for n in range(24):
            assert not throttle.refuses()
            throttle.ended("" if n == 0 else FULL)
        throttle._draw = lambda draw=draw: draw
        assert throttle.refuses() is refused  # (24 - 2 * 1 - 10) / (24 + 1)


@given(st.floats(1, 10), st.floats(0.1, 500), st.integers(0, 2**32))
def test_a_server_with_room_is_sent_everything(factor: float, rate: float, seed: int) -> None:
    clock = Clock()
    throttle = Throttle(factor, clock, Random(seed).random)
    sent, _ = offer(throttle, clock, rate, 200 / rate, lambda: True)
    assert sent == 200


@pytest.mark.parametrize("factor", [1.1, 2.0])
def test_a_full_server_is_sent_little_more_than_it_takes(factor: float) -> None:
    clock, random = Clock(), Random(0)
    throttle = Throttle(factor, clock, random.random)
    offer(throttle, clock, 500, 5 * HALF_LIFE, lambda: random.random() < 0.1)
    sent, _ = offer(throttle, clock, 500, 20, lambda: random.random() < 0.1)
    # A tenth of what is sent is taken, far less than 1 / K: hardly more is sent than FREE in 3 seconds.
    assert 10 < sent < 0.02 * 20 * 500


@pytest.mark.parametrize(("factor", "least"), [(1.1, 0.85), (2.0, 0.95)])
def test_a_server_at_five_times_its_capacity_is_kept_busy(factor: float, least: float) -> None:
    clock, random = Clock(), Random(0)
    throttle = Throttle(factor, clock, random.random)
    capacity, tokens, filled = 100.0, 0.0, 0.0

    def room() -> bool:
        nonlocal tokens, filled
        tokens = min(10.0, tokens + capacity * (clock.now - filled))
        filled = clock.now
        if tokens < 1:
            return False
        tokens -= 1
        return True

    offer(throttle, clock, 500, 5 * HALF_LIFE, room)
    sent, taken = offer(throttle, clock, 500, 30, room)
    assert taken >= least * 30 * capacity
    assert sent <= 1.1 * factor * taken


def test_a_server_that_has_room_again_is_found_soon() -> None:
    clock = Clock()
    throttle = Throttle(2.0, clock, Random(0).random)
    offer(throttle, clock, 50, 60, lambda: False)
    offer(throttle, clock, 50, 6 * HALF_LIFE, lambda: True)
    sent, _ = offer(throttle, clock, 50, 10, lambda: True)
    assert sent == 500


def test_no_throttle_refuses_nothing() -> None:
    throttle = Throttle(None)
    for _ in range(100):
        assert not throttle.refuses()
        throttle.ended(FULL)
    with pytest.raises(ValueError, match=r"throttle must be at least 1.0, got 0.5"):
        Throttle(0.5)


def test_a_client_holds_calls_back_and_says_so() -> None:
    planned = Planned(*[SERVER_FULL] * 300)
    reasons = []
    with listening(planned) as target, Client(target, throttle=2.0) as client:
        for _ in range(300):
            with pytest.raises(ClientError) as caught:
                client.caption(b"photo", request_id="mine")
            reasons.append(caught.value.reason)
    held = [n for n, reason in enumerate(reasons) if reason == "THROTTLED"]
    assert planned.calls == 300 - len(held) < 100
    assert held[0] >= FREE
    assert (caught.value.code, caught.value.request_id) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "mine")
    assert caught.value.retry_after is not None


def test_held_back_calls_are_tried_again_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"throttle.FREE": 0.0, "connection.HELD_BACK_SECONDS": 0.02}.items():
        monkeypatch.setattr(f"captioner.{name}", value)
    planned = Planned(*[SERVER_FULL] * 5)
    with listening(planned) as target, Client(target, retry_when_full=True, throttle=1.0) as client:
        draws = cycle([1.0, 0.0])  # every other attempt is sent, the others only if nothing was refused
        client.connection._throttle._draw = lambda: next(draws)
        assert client.caption(b"photo")[0].text == "5"
    assert planned.calls == 6
    assert next(draws) == 0.0
    assert client.connection._throttle._wanted > 8  # five were held back


def test_other_failures_hold_nothing_back() -> None:
    planned = Planned(*[BROKEN] * 20)

    async def ask(target: str) -> None:
        async with AsyncClient(target, throttle=1.0) as client:
            for _ in range(20):
                with pytest.raises(ClientError, match="INTERNAL"):
                    await client.caption(b"photo")

    with listening(planned) as target:
        asyncio.run(ask(target))
    assert planned.calls == 20


def test_the_async_client_holds_back_too() -> None:
    planned = Planned(*[SERVER_FULL] * 200)

    async def ask(target: str) -> None:
        async with AsyncClient(target, throttle=2.0) as client:
            for _ in range(200):
                with pytest.raises(ClientError):
                    await client.caption(b"photo")

    with listening(planned) as target:
        asyncio.run(ask(target))
    assert planned.calls < 100
