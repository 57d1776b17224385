"""Calls from anywhere, one model: who is answered, with what, and what is never done for nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import BadImage, Captioner, SearchOptions
from captioner.query import BadQuestion, Query
from services.admission import Admission
from services.batching import Call
from services.engine import BusyError, DeadlineError, Engine, Outcome, WarmUpError
from services.observer import Observer
from services.pipeline import Pipeline
from services.settings import EngineSettings
from services.warm_up import warm_up
from tests.fake_captioner import FakeCaptioner, PoisonError, answer_of, caption_of, picture
from tests.running_server import jpeg

SEVEN, FIVE = SearchOptions(7), SearchOptions(5)


@asynccontextmanager
async def engine_of(captioner: Any, observer: Observer | None = None, **chosen: Any) -> AsyncIterator[Engine]:
    """An engine; at the end nothing may be left in it, and its threads end."""
    engine = Engine(captioner, EngineSettings(**chosen), observer)
    try:
        yield engine
    finally:
        if isinstance(captioner, FakeCaptioner):
            captioner.gate.set()
        await asyncio.wait_for(engine.close(), 60)
        pipeline = engine._pipeline
        assert (engine.calls, pipeline._pictures, pipeline._waiting.jobs, pipeline._running) == (0, {}, [], [])
        assert not pipeline._model.is_alive()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine; no thread may be left behind."""

    async def within() -> None:
        await asyncio.wait_for(work(), 300)

    before = threading.active_count()
    asyncio.run(within())
    assert threading.active_count() == before


async def until(condition: Callable[[], Any]) -> None:
    end = monotonic() + 60
    while not condition():
        assert monotonic() < end, "waited in vain"
        await asyncio.sleep(0.001)


def text(outcome: Outcome) -> str:
    if outcome.captions is None:
        assert outcome.answered is not None
        return outcome.answered.answers[0].text
    assert outcome.answered is None
    return outcome.captions[0].text


# Batches


def test_one_picture_goes_alone_and_at_once() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake) as engine:
            assert text(await engine.caption(picture(3), SEVEN)) == caption_of(3, SEVEN)
        assert fake.runs == [("encode", [3]), ("search", [3])]

    run(work)


def test_what_comes_during_a_run_shares_the_next() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake, max_batch=4) as engine:
            fake.gate.clear()
            first = asyncio.create_task(engine.caption(picture(0), SEVEN))
            await until(fake.entered.is_set)
            rest = [asyncio.create_task(engine.caption(picture(n), SEVEN)) for n in range(1, 6)]
            await until(lambda: len(engine._pipeline._waiting.jobs) == 5)
            fake.gate.set()
            found = [text(outcome) for outcome in await asyncio.gather(first, *rest)]
        assert found == [caption_of(n, SEVEN) for n in range(6)]
        assert [len(numbers) for numbers in fake.of("encode")] == [1, 4, 1]
        assert [len(numbers) for numbers in fake.of("search")] == [4, 2]
        assert 0 in fake.of("search")[0]  # the oldest is searched for first

    run(work)


def test_captions_and_answers_share_the_encoder() -> None:
    async def work() -> None:
        fake, query, choice = FakeCaptioner(), Query("who"), Query("which", candidates=("a", "b"))
        async with engine_of(fake) as engine:
            fake.gate.clear()
            first = asyncio.create_task(engine.caption(picture(0), SEVEN))
            await until(fake.entered.is_set)
            calls: list[Awaitable[Outcome]] = [
                engine.caption(picture(1), SEVEN), engine.caption(picture(2), FIVE),
                engine.answer(picture(3), query), engine.answer(picture(4), choice),
            ]  # fmt: skip
            tasks = [asyncio.ensure_future(call) for call in calls]
            await until(lambda: len(engine._pipeline._waiting.jobs) == 4)
            fake.gate.set()
            found = [text(outcome) for outcome in await asyncio.gather(first, *tasks)]
        assert found[1:3] == [caption_of(1, SEVEN), caption_of(2, FIVE)]
        assert found[3:] == [answer_of(3, query), answer_of(4, choice)]
        assert [sorted(numbers) for numbers in fake.of("encode")] == [[0], [1, 2, 3, 4]]
        assert sorted(map(sorted, fake.of("search"))) == [[0, 1], [2]]
        assert sorted(fake.of("answer")) == [[3], [4]]

    run(work)


def test_a_picture_in_flight_is_read_and_encoded_once() -> None:
    async def work() -> None:
        fake, query = FakeCaptioner(), Query("who")
        async with engine_of(fake) as engine:
            fake.gate.clear()
            first = asyncio.create_task(engine.caption(picture(1), SEVEN))
            await until(fake.entered.is_set)  # it is in the encoder
            others = [asyncio.create_task(engine.caption(picture(1), options)) for options in (SEVEN, FIVE)]
            asked = asyncio.create_task(engine.answer(picture(1), query))
            await until(lambda: len(engine._pipeline._pictures[next(iter(engine._pipeline._pictures))].calls) == 4)
            fake.gate.set()
            found = [text(outcome) for outcome in await asyncio.gather(first, *others, asked)]
        assert found == [caption_of(1, SEVEN), caption_of(1, SEVEN), caption_of(1, FIVE), answer_of(1, query)]
        assert (fake.decoded, fake.of("encode")) == ([1], [[1]])
        assert fake.of("search") == [[1], [1]]  # two that ask the same share a row

    run(work)


def test_a_remembered_picture_is_neither_read_nor_encoded() -> None:
    seen: list[bool] = []

    class Memories(Observer):
        def memory(self, model: str, hit: bool) -> None:
            seen.append(hit)

    async def work() -> None:
        fake = FakeCaptioner(memory_bytes=1000)
        async with engine_of(fake, Memories()) as engine:
            first = await engine.caption(picture(1), SEVEN)
            again = await engine.answer(picture(1), Query("who"))
        assert (fake.decoded, fake.of("encode")) == ([1], [[1]])
        assert first.decode_seconds > 0
        assert first.encode_seconds > 0
        assert (again.decode_seconds, again.encode_seconds) == (0, 0)
        assert seen == [False, True]

    run(work)


def test_an_idle_model_waits_as_long_as_it_is_told() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake, wait_ms=200) as engine:
            begin = monotonic()
            await asyncio.gather(*(engine.caption(picture(n), SEVEN) for n in range(3)))
            assert monotonic() - begin >= 0.2
        assert list(map(sorted, fake.of("encode"))) == [[0, 1, 2]]

    run(work)


# Those who leave


def test_cancelled_while_it_waits_nothing_is_done() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake) as engine:
            fake.gate.clear()
            first = asyncio.create_task(engine.caption(picture(0), SEVEN))
            await until(fake.entered.is_set)
            second = asyncio.create_task(engine.caption(picture(1), SEVEN))
            await until(lambda: engine._pipeline._waiting.jobs)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert engine.calls == 1
            fake.gate.set()
            await first
        assert fake.of("encode") == [[0]]

    run(work)


def test_a_run_that_nobody_waits_for_is_stopped_and_one_that_somebody_waits_for_is_not() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake) as engine:
            fake.gate.clear()
            blocker = asyncio.create_task(engine.caption(picture(0), SEVEN))
            await until(fake.entered.is_set)
            both = [asyncio.create_task(engine.caption(picture(n), SEVEN)) for n in (1, 2)]
            await until(lambda: len(engine._pipeline._waiting.jobs) == 2)
            blocker.cancel()
            await until(lambda: len(engine._pipeline._running) == 2)  # the first run was stopped by that
            assert fake.stopped == [[0]]
            both[0].cancel()
            await until(both[0].done)
            await asyncio.sleep(0.02)
            assert fake.stopped == [[0]]
            both[1].cancel()
            await until(lambda: len(fake.stopped) == 2)
        assert fake.of("search") == []

    run(work)


def test_a_call_for_a_picture_whose_run_was_just_given_up_begins_anew() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake) as engine:
            fake.gate.clear()
            first = asyncio.create_task(engine.caption(picture(1), SEVEN))
            await until(fake.entered.is_set)
            first.cancel()
            again = asyncio.create_task(engine.caption(picture(1), SEVEN))
            await until(lambda: fake.stopped)
            fake.gate.set()
            assert text(await again) == caption_of(1, SEVEN)

    run(work)


def test_who_shares_a_picture_stays_when_the_first_leaves() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake) as engine:
            fake.gate.clear()
            first = asyncio.create_task(engine.caption(picture(1), SEVEN))
            await until(fake.entered.is_set)
            second = asyncio.create_task(engine.caption(picture(1), SEVEN))
            await until(lambda: len(engine._pipeline._running[0].calls) == 2)
            first.cancel()
            await until(first.done)
            fake.gate.set()
            assert text(await second) == caption_of(1, SEVEN)
        assert fake.stopped == []

    run(work)


def test_the_deadline_ends_the_call_and_the_run() -> None:
    dropped: list[str] = []

    class Drops(Observer):
        def dropped(self, reason: str) -> None:
            dropped.append(reason)

    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake, Drops()) as engine:
            fake.gate.clear()
            begin = monotonic()
            with pytest.raises(DeadlineError, match="passed"):
                await engine.caption(picture(1), SEVEN, begin + 0.05)
            assert monotonic() >= begin + 0.05
            await until(lambda: fake.stopped == [[1]])
            with pytest.raises(DeadlineError, match="passed"):
                await engine.caption(picture(2), SEVEN, monotonic() - 1)
        assert fake.decoded == [1]
        assert dropped == ["deadline", "deadline"]

    run(work)


def test_a_deadline_that_cannot_be_met_is_refused_at_once_but_not_by_an_idle_model() -> None:
    dropped: list[str] = []

    class Drops(Observer):
        def dropped(self, reason: str) -> None:
            dropped.append(reason)

    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake, Drops()) as engine:
            engine._pipeline.took("call", 20.0, 1)
            assert await engine.caption(picture(0), SEVEN, monotonic() + 10)  # an idle model tries
            fake.gate.clear()
            engine._pipeline.took("call", 20.0 * 20, 20)
            others = [asyncio.create_task(engine.caption(picture(n), SEVEN)) for n in range(1, 4)]
            await until(lambda: engine.calls == 3)
            with pytest.raises(
                BusyError, match="an answer takes about"
            ) as refused:  # 4 calls of nearly 20 s, times 1.25
                await engine.caption(picture(4), SEVEN, monotonic() + 80)
            assert 1 <= refused.value.retry_after <= 20  # nearly 100 s, of which 80 are left
            patient = asyncio.create_task(engine.caption(picture(5), SEVEN, monotonic() + 200))
            await until(lambda: engine.calls == 4)
            fake.gate.set()
            assert all(await asyncio.gather(*others, patient))
        assert 4 not in fake.decoded
        assert not dropped  # it was never let in

    run(work)


def test_a_batch_leaves_out_whom_it_cannot_answer_in_time() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake) as engine:
            for _ in range(4):
                engine._pipeline.took("encode", 50.0, 1)
            fake.gate.clear()
            blocker = asyncio.create_task(engine.caption(picture(0), SEVEN))
            await until(fake.entered.is_set)
            late = asyncio.create_task(engine.caption(picture(1), SEVEN, monotonic() + 80))
            other = asyncio.create_task(engine.caption(picture(2), SEVEN))
            await until(lambda: len(engine._pipeline._waiting.jobs) == 2)
            fake.gate.set()
            with pytest.raises(DeadlineError, match="an answer takes about"):
                await late
            assert [text(await call) for call in (blocker, other)] == [caption_of(n, SEVEN) for n in (0, 2)]
        assert fake.of("encode") == [[0], [2]]

    run(work)


# What fails


def test_a_bad_picture_fails_alone() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        async with engine_of(fake) as engine:
            calls = [engine.caption(image, SEVEN) for image in (picture(1), b"nothing", picture(2))]
            first, bad, second = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(bad, BadImage)
            assert isinstance(first, Outcome)
            assert isinstance(second, Outcome)
            assert [text(first), text(second)] == [caption_of(1, SEVEN), caption_of(2, SEVEN)]

    run(work)


@pytest.mark.parametrize("stage", ["encode", "search", "answer"])
def test_a_poisonous_picture_takes_nobody_with_it(stage: str) -> None:
    async def work() -> None:
        fake, query = FakeCaptioner(), Query("who")
        fake.poison[stage] = {2}
        async with engine_of(fake) as engine:
            fake.gate.clear()
            calls: list[Coroutine[Any, Any, Outcome]] = [
                engine.answer(picture(n), query) if stage == "answer" else engine.caption(picture(n), SEVEN)
                for n in range(5)
            ]
            tasks = [asyncio.create_task(calls[0])]
            await until(fake.entered.is_set)
            tasks += [asyncio.create_task(call) for call in calls[1:]]
            await until(lambda: len(engine._pipeline._waiting.jobs) == 4)
            fake.gate.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found.pop(2), PoisonError)
        assert all(isinstance(outcome, Outcome) for outcome in found)

    run(work)


def test_a_model_that_returns_too_little_fails_its_calls() -> None:
    class Short(FakeCaptioner):
        def search(self, *arguments: Any, **more: Any) -> Any:
            return super().search(*arguments, **more)[1:]

    async def work() -> None:
        async with engine_of(Short()) as engine:
            with pytest.raises(ValueError, match="argument 2 is shorter"):
                await engine.caption(picture(1), SEVEN)

    run(work)


def test_an_observer_that_fails_leaves_nobody_waiting() -> None:
    class Broken(Observer):
        def stage(self, model: str, stage: str, seconds: float, images: int) -> None:
            raise OSError("disk full")

    async def work() -> None:
        async with engine_of(FakeCaptioner(), Broken()) as engine:
            with pytest.raises(OSError, match="disk full"):
                await engine.caption(picture(1), SEVEN)

    run(work)


def test_closing_waits_for_the_last_call_and_refuses_the_next() -> None:
    async def work() -> None:
        fake = FakeCaptioner()
        engine = Engine(fake, EngineSettings())  # type: ignore[arg-type]
        fake.gate.clear()
        call = asyncio.create_task(engine.caption(picture(1), SEVEN))
        await until(fake.entered.is_set)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        fake.gate.set()
        assert text(await call) == caption_of(1, SEVEN)
        await closing
        with pytest.raises(RuntimeError, match="closed"):
            await engine.caption(picture(1), SEVEN)
        await engine.close()

    run(work)


# Any mixture


@dataclass(frozen=True)
class Plan:
    """One caller."""

    number: int
    """-1 sends what is no picture."""
    task: SearchOptions | Query
    starts: int
    """Milliseconds."""
    gives_up: int | None
    """Milliseconds after the start, by cancelling."""
    deadline: int | None
    """Milliseconds after the start."""


PLANS = st.lists(
    st.builds(
        Plan,
        number=st.integers(-1, 6),
        task=st.sampled_from([SEVEN, FIVE, Query("who"), Query("what"), Query("which", candidates=("a", "b"))]),
        starts=st.integers(0, 15),
        gives_up=st.none() | st.integers(0, 20),
        deadline=st.none() | st.integers(0, 30),
    ),
    max_size=16,
)


@given(
    plans=PLANS,
    poison=st.fixed_dictionaries({stage: st.sets(st.integers(0, 6), max_size=1) for stage in ("encode", "search")}),
    only_alone=st.sets(st.integers(0, 6), max_size=1),
    memory_bytes=st.sampled_from([0, 12]),  # a grid has 4 bytes
    max_batch=st.integers(1, 5),
    wait_ms=st.sampled_from([0.0, 2.0]),
)
@settings(max_examples=60, deadline=None)
def test_every_call_has_one_outcome_and_the_right_one(
    plans: list[Plan],
    poison: dict[str, set[int]],
    only_alone: set[int],
    memory_bytes: int,
    max_batch: int,
    wait_ms: float,
) -> None:
    settled: list[Call] = []

    class Counting(Pipeline):
        def _settle(self, call: Call, found: Any) -> None:
            if not call.gone:
                settled.append(call)
            super()._settle(call, found)

    async def work() -> None:
        fake = FakeCaptioner(0.001, memory_bytes)
        fake.poison |= poison
        fake.only_alone = only_alone
        admission = Admission(len(plans) + 1)
        admission.open()

        async def caller(engine: Engine, plan: Plan) -> Outcome:
            await asyncio.sleep(plan.starts / 1000)
            deadline = None if plan.deadline is None else monotonic() + plan.deadline / 1000
            image = b"nothing" if plan.number < 0 else picture(plan.number)
            with admission.enter():
                if isinstance(plan.task, Query):
                    call = asyncio.ensure_future(engine.answer(image, plan.task, deadline))
                else:
                    call = asyncio.ensure_future(engine.caption(image, plan.task, deadline))
                if plan.gives_up is not None:
                    asyncio.get_running_loop().call_later(plan.gives_up / 1000, call.cancel)
                return await call

        async with engine_of(fake, max_batch=max_batch, wait_ms=wait_ms) as engine:
            engine._pipeline.__class__ = Counting
            calls = (caller(engine, plan) for plan in plans)
            found = await asyncio.gather(*calls, return_exceptions=True)
        for plan, outcome in zip(plans, found, strict=True):
            check(plan, outcome, fake)
        assert admission.admitted == 0
        assert len(settled) == len(set(settled))

    def check(plan: Plan, outcome: Outcome | BaseException, fake: FakeCaptioner) -> None:
        if isinstance(outcome, asyncio.CancelledError):
            assert plan.gives_up is not None
        elif isinstance(outcome, DeadlineError):
            assert plan.deadline is not None
        elif isinstance(outcome, BadImage):
            assert plan.number < 0
        elif isinstance(outcome, PoisonError):
            stage = "answer" if isinstance(plan.task, Query) else "search"
            assert plan.number in fake.poison["encode"] | fake.poison[stage]
        else:
            assert isinstance(outcome, Outcome), outcome
            assert plan.number >= 0
            wanted = answer_of if isinstance(plan.task, Query) else caption_of
            assert text(outcome) == wanted(plan.number, plan.task)  # type: ignore[arg-type]

    run(work)


def test_thousands_of_cancelled_calls_leave_nothing() -> None:
    async def work() -> None:
        fake = FakeCaptioner(0.0005)
        async with engine_of(fake) as engine:

            async def fleeting(n: int) -> None:
                call = asyncio.ensure_future(engine.caption(picture(n % 250), SEVEN))
                await asyncio.sleep(0.0002 * (n % 7))
                call.cancel()
                await asyncio.wait([call])

            for first in range(0, 3_000, 100):
                await asyncio.gather(*(fleeting(n) for n in range(first, first + 100)))
            assert text(await engine.caption(picture(1), SEVEN)) == caption_of(1, SEVEN)

    run(work)


# Real graphs


@pytest.fixture(scope="module")
def captioner(tiny_bundle_answers: Path) -> Captioner:
    return Captioner.load(tiny_bundle_answers, precision="fp32", threads=1, memory_bytes=0)


def test_a_batch_says_what_each_would_say_alone(captioner: Captioner) -> None:
    shades, queries = range(0, 240, 30), [Query("what is on the grass"), Query("how many red"), Query("is there a dog")]

    async def work() -> None:
        async with engine_of(captioner) as engine:
            await engine.warm_up()
            calls = [engine.caption(jpeg(shade=shade), captioner.options(5, captions=2)) for shade in shades]
            asked = [engine.answer(jpeg(shade=shade), query) for shade in shades for query in queries]
            captions = await asyncio.gather(*calls)
            answers = await asyncio.gather(*asked)
        for shade, outcome in zip(shades, captions, strict=True):
            assert outcome.captions is not None
            alone = captioner.caption(jpeg(shade=shade), 5, captions=2)
            assert [caption.text for caption in outcome.captions] == [caption.text for caption in alone]
            scores = [caption.score for caption in outcome.captions]
            assert scores == pytest.approx([caption.score for caption in alone], abs=1e-4)
        pairs = [(shade, query) for shade in shades for query in queries]
        for (shade, query), outcome in zip(pairs, answers, strict=True):
            assert outcome.answered is not None
            lone = captioner.answer(jpeg(shade=shade), query.text)
            given, wanted = ({a.text: a.probability for a in found.answers} for found in (outcome.answered, lone))
            assert given == pytest.approx(wanted, abs=1e-4)

    run(work)


def test_a_question_that_cannot_be_asked_is_refused_before_the_picture_is_read(captioner: Captioner) -> None:
    async def work() -> None:
        async with engine_of(captioner) as engine:
            with pytest.raises(BadQuestion, match="history"):
                await engine.answer(b"no picture", Query("who", history=(("who", "the dog"),)))

    run(work)


def test_a_search_in_progress_stops(captioner: Captioner) -> None:
    async def work() -> None:
        async with engine_of(captioner) as engine:
            heavy = SearchOptions(20, 50)
            await engine.caption(jpeg(), heavy)
            call = asyncio.create_task(engine.caption(jpeg(shade=9), heavy))
            await until(lambda: engine._pipeline._running and engine._pipeline._running[0].kind[0] == "search")
            call.cancel()
            await until(lambda: not engine._pipeline._running)
            with pytest.raises(asyncio.CancelledError):
                await call

    run(work)


def test_warm_up_runs_every_graph_on_powers_of_two_and_the_largest(captioner: Captioner) -> None:
    ran: list[tuple[str, int]] = []
    warm_up(captioner, 6, lambda stage, seconds, images: ran.append((stage, images)))
    assert ran == [(stage, size) for size in (1, 2, 4, 6) for stage in ("encode", "search", "answer")]


def test_warm_up_of_a_model_that_answers_nonsense(captioner: Captioner) -> None:
    class Nonsense:
        def __getattr__(self, name: str) -> Any:
            return getattr(captioner, name)

        def encode(self, pixels_BHW3: Any, stop: Any = None) -> Any:
            return captioner.encode(pixels_BHW3, stop) * float("nan")

    async def work() -> None:
        async with engine_of(Nonsense()) as engine:
            with pytest.raises(WarmUpError, match="nonsense"):
                await engine.warm_up()

    run(work)
