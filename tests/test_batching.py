"""Which jobs share a run, with times that can be followed on paper."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner import SearchOptions
from captioner.query import Query
from services.batching import REMEMBERED, Call, Job, Recent, Task, Waiting, kind_of, run
from tests.fake_captioner import FakeCaptioner

FIVE, SEVEN = SearchOptions(5), SearchOptions(7)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def make(loop: asyncio.AbstractEventLoop) -> Any:
    """A job of a call that asks `task`: at the encoder, or encoded."""

    def job(arrived: float, task: Task = SEVEN, encoded: bool = False, **more: Any) -> Job:
        call = Call(task, arrived, None, None, loop.create_future())
        return Job(task if encoded else None, b"", None, [call], arrived, **more)

    return job


def waiting(*jobs: Job, max_batch: int = 4) -> Waiting:
    found = Waiting(max_batch)
    found.jobs = list(jobs)
    return found


def test_nothing_waits() -> None:
    assert waiting().next_batch(0.0) == []


def test_a_single_picture_goes_at_once(make: Any) -> None:
    one = make(1.0)
    assert waiting(one).next_batch(1.0) == [one]


def test_the_oldest_pictures_go_together(make: Any) -> None:
    jobs = [make(float(n)) for n in (5, 3, 1, 4, 2)]
    assert [job.arrived for job in waiting(*jobs).next_batch(9.0)] == [1, 2, 3, 4]


def test_searches_go_by_equal_options_and_the_oldest_first(make: Any) -> None:
    jobs = [make(1.0, FIVE, True), make(2.0, SEVEN, True), make(3.0, SearchOptions(5), True)]
    assert waiting(*jobs).next_batch(9.0) == [jobs[0], jobs[2]]


def test_questions_go_by_equal_candidates(make: Any) -> None:
    first, second = Query("who", candidates=("a", "b")), Query("what", candidates=("a", "b"))
    jobs = [make(1.0, first, True), make(2.0, Query("what"), True), make(3.0, second, True)]
    assert waiting(*jobs).next_batch(9.0) == [jobs[0], jobs[2]]


def test_a_picture_is_encoded_first_if_it_would_join_the_search(make: Any) -> None:
    old, new = make(1.0, SEVEN, True), make(2.0, SEVEN)
    assert waiting(old, new).next_batch(9.0) == [new]


def test_a_picture_that_would_not_join_waits(make: Any) -> None:
    old, new = make(1.0, SEVEN, True), make(2.0, FIVE)
    assert waiting(old, new).next_batch(9.0) == [old]


def test_pictures_that_would_join_are_encoded_before_older_ones(make: Any) -> None:
    old = make(1.0, SEVEN, True)
    others = [make(2.0 + n, FIVE) for n in range(4)]
    joins = make(8.0, SEVEN)
    assert waiting(old, *others, joins).next_batch(9.0) == [joins, *others[:3]]


def test_a_full_search_goes_first(make: Any) -> None:
    old = [make(float(n), SEVEN, True) for n in range(4)]
    assert waiting(*old, make(5.0, SEVEN)).next_batch(9.0) == old


def test_a_job_that_must_be_alone_is(make: Any) -> None:
    alone, other = make(1.0, alone=True), make(2.0)
    both = waiting(alone, other)
    assert both.next_batch(9.0) == [alone]
    both.jobs.remove(alone)
    assert both.next_batch(9.0) == [other]


def test_a_batch_that_is_not_full_waits_until_it_is_due(make: Any) -> None:
    jobs = [make(1.0 + n, due=5.0 + n) for n in range(4)]
    assert waiting(*jobs[:3]).next_batch(4.9) == []
    assert waiting(*jobs[:3]).next_batch(5.0) == jobs[:3]
    assert waiting(*jobs).next_batch(1.0) == jobs


@given(st.data())
def test_every_job_runs_once_with_its_like_and_none_is_overtaken_for_long(make: Any, data: st.DataObject) -> None:
    tasks = st.sampled_from([SEVEN, FIVE, Query("who"), Query("who", candidates=("a",))])
    drawn = data.draw(st.lists(st.tuples(tasks, st.booleans(), st.booleans()), max_size=20))
    most = data.draw(st.integers(1, 4))
    jobs = [make(float(n), task, encoded, alone=alone) for n, (task, encoded, alone) in enumerate(drawn)]
    queue, left, searched = waiting(*jobs, max_batch=most), 0, 0
    oldest_waits = 0
    while queue.jobs:
        batch = queue.next_batch(99.0)
        assert batch
        assert len({job.kind for job in batch}) == 1
        assert len(batch) == 1 if batch[0].alone else len(batch) <= most
        oldest = min(queue.jobs, key=lambda job: job.arrived)
        oldest_waits = 0 if oldest in batch else oldest_waits + 1
        assert oldest_waits < most
        for job in batch:
            queue.jobs.remove(job)
            if job.task is None:  # encoded: now it is searched for
                [call] = job.calls
                queue.jobs.append(make(job.arrived, call.task, True))
                left += 1
            else:
                searched += 1
    assert searched == len(jobs)
    assert left == sum(not encoded for _, encoded, _ in drawn)


def test_kinds() -> None:
    assert kind_of(SEVEN) == kind_of(SearchOptions(7)) != kind_of(FIVE)
    assert kind_of(Query("who")) == kind_of(Query("what")) != kind_of(Query("who", candidates=("a", "b")))


def test_questions_about_one_picture_share_its_grid(make: Any) -> None:
    one, two = (np.full((1, 1), number, np.float32) for number in (1, 2))
    jobs = [make(0.0, Query(text), True) for text in ("who", "what", "where")]
    for job, grid_PC in zip(jobs, (one, two, one), strict=True):
        job.data = grid_PC
    shapes = []

    class Shapes(FakeCaptioner):
        def answer_batch(self, grid_BPC: Any, queries: Any, pictures: Any, stop: Any = None) -> Any:
            shapes.append(grid_BPC.shape)
            return super().answer_batch(grid_BPC, queries, pictures, stop)

    found = run(Shapes(), jobs, None)  # type: ignore[arg-type]
    assert shapes == [(2, 1, 1)]
    assert [answered.answers[0].text for answered in found] == ["1: who ", "2: what ", "1: where "]


def test_mean_and_upper_quartile_of_the_last_runs() -> None:
    recent = Recent()
    assert (recent.mean("encode"), recent.slow("encode")) == (0.0, 0.0)
    recent.add("encode", 0.4, 4)
    assert (recent.mean("encode"), recent.slow("encode")) == (0.1, 0.1)
    recent.add("encode", 0.2, 1)
    assert recent.mean("encode") == pytest.approx(0.6 / 5)
    assert recent.slow("encode") == pytest.approx(0.1 + 0.75 * 0.1)
    assert recent.mean("search") == 0.0


def test_one_stall_does_not_count_and_old_runs_are_forgotten() -> None:
    recent = Recent()
    for seconds in [0.1] * (REMEMBERED - 1) + [60.0]:
        recent.add("search", seconds, 1)
    assert recent.slow("search") == 0.1
    for _ in range(REMEMBERED):
        recent.add("search", 0.2, 1)
    assert (recent.mean("search"), recent.slow("search")) == pytest.approx((0.2, 0.2))
