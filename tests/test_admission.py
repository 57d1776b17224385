"""Who is let in, who is not, and when a drain ends."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from services import admission as module
from services.admission import Admission, State
from services.errors import NotReadyError, QueueFullError


def opened(max_queue: int = 2) -> Admission:
    admission = Admission(max_queue)
    admission.open()
    return admission


def test_nobody_before_it_opens() -> None:
    with pytest.raises(NotReadyError) as caught, Admission(1).enter():
        pass
    assert caught.value.reason == "LOADING"


def test_so_many_and_no_more() -> None:
    admission = opened(2)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(admission.enter())
        with pytest.raises(QueueFullError, match="2 pictures are waiting, the limit is 2") as caught, admission.enter():
            pass
        assert caught.value.retry_after == module.SHORTEST_RETRY  # nothing is known yet
    assert admission.admitted == 0
    with admission.enter():
        assert admission.admitted == 1


def test_who_fails_inside_leaves_too() -> None:
    admission = opened()
    with pytest.raises(KeyError), admission.enter():
        raise KeyError
    assert admission.admitted == 0


def test_told_to_come_back_when_the_queue_should_have_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    admission = opened(4)
    for _ in range(200):  # one image at a time, half a second each, with long breaks that do not count
        now += 60.0
        with admission.enter():
            now += 0.5
    with ExitStack() as inside:
        for _ in range(4):
            inside.enter_context(admission.enter())
        with pytest.raises(QueueFullError) as caught, admission.enter():
            pass
    assert caught.value.retry_after == pytest.approx(4 * 0.5)


def test_who_fails_does_not_say_how_fast_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    admission = opened(2)
    with admission.enter():
        for _ in range(200):  # while one is always there
            now += 0.001
            with pytest.raises(KeyError), admission.enter():  # refused by the engine, cancelled, no picture
                raise KeyError
            with admission.enter():
                now += 0.5
        with admission.enter(), pytest.raises(QueueFullError) as caught, admission.enter():
            pass
    assert caught.value.retry_after == pytest.approx(2 * 0.501)


def test_no_longer_than_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    admission = opened(1)
    with admission.enter():
        now += 3600.0
    with admission.enter(), pytest.raises(QueueFullError) as caught, admission.enter():
        pass
    assert caught.value.retry_after == module.LONGEST_RETRY


def test_a_drain_waits_for_those_inside_and_lets_nobody_in() -> None:
    async def work() -> None:
        admission = opened()
        leave = asyncio.Event()

        async def inside() -> None:
            with admission.enter():
                await leave.wait()

        task = asyncio.create_task(inside())
        await asyncio.sleep(0)
        assert not await admission.drained(0.01)
        assert admission.state is State.DRAINING
        with pytest.raises(NotReadyError) as caught, admission.enter():
            pass
        assert caught.value.reason == "DRAINING"
        leave.set()
        assert await admission.drained(5.0)
        await task

    asyncio.run(work())


def test_a_drain_of_nobody_is_done_and_nothing_opens_after_it() -> None:
    async def work() -> None:
        admission = Admission(1)
        assert await admission.drained(0.0)
        admission.open()
        assert admission.state is State.DRAINING

    asyncio.run(work())


def test_room_for_none() -> None:
    with pytest.raises(ValueError, match="max_queue must be at least 1, got 0"):
        Admission(0)
