"""The load tool: when it calls, what it counts from, what it writes; and that the naive server says the same."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import selectors
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from captioner.images import decode_image
from captioner.memory import photo_key
from captioner.v1 import captioner_pb2 as pb
from captioner.v1 import captioner_pb2_grpc
from services.load import closed_loop, open_loop
from services.load.__main__ import main
from services.load.open_loop import Ran, run
from services.load.photos import Photos, distinct, read_photos
from services.load.plot import plot
from services.load.records import COLUMNS, Ended, Records
from services.load.schedule import KINDS, Kind, schedule, shares
from services.load.summary import bottleneck, percentiles, summary
from services.settings import EngineSettings
from tests.naive_server import naive_server
from tests.running_server import jpeg, running

FP32 = EngineSettings(threads=1, memory_bytes=0, precision="fp32")


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once: while all wait, it goes on to when the next one is due."""

    def __init__(self) -> None:
        loop, self.now = self, 0.0

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                events = super().select(0)
                loop.now += 0.0 if events else timeout or 0.0
                return events

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    for module in (open_loop, closed_loop):
        monkeypatch.setattr(module, "monotonic", made.time)
    yield made
    made.close()


class Fake:
    """A server that answers one call after the other; `seconds` says how long each takes."""

    def __init__(self, seconds: Callable[[int], float], code: str = "OK"):
        self.seconds, self.code, self.calls, self.lock = seconds, code, 0, asyncio.Lock()

    def own_seconds(self, kind: Kind) -> float:
        return 0.25 if kind == "slow" else 0.0

    async def call(self, kind: Kind, until: float) -> Ended:
        number, self.calls = self.calls, self.calls + 1
        async with self.lock:
            await asyncio.sleep(self.seconds(number))
        return Ended(self.code, "", self.code == "OK")


def quiet(text: str) -> None:
    pass


def done(clock: Clock, work: Coroutine[Any, Any, Ran]) -> tuple[Ran, np.ndarray]:
    """A run in the clock's time, and the latencies of its calls in seconds."""
    ran = clock.run_until_complete(work)
    return ran, ran.records.rows["finished"] - ran.records.rows["scheduled"]


# When


def test_calls_are_evenly_spaced_from_the_warm_up_to_the_end() -> None:
    calls = schedule(rate=10, seconds=2, warm=1)
    assert calls.due_N.tolist() == pytest.approx([n / 10 - 1 for n in range(30)])


def test_independent_calls_come_as_often_but_not_evenly() -> None:
    calls = schedule(rate=100, seconds=90, warm=10, poisson=True)
    gaps = np.diff(calls.due_N)
    assert (gaps >= 0).all()
    assert calls.due_N[0] >= -10
    assert calls.due_N[-1] <= 90
    assert len(gaps) == pytest.approx(10_000, rel=0.05)  # a standard deviation is 1 %
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of an exponential distribution


def test_kinds_have_their_exact_shares_in_random_order() -> None:
    calls = schedule(rate=10, seconds=10, mix=shares("good=7, bad=1,cancel=2"))
    kinds = [KINDS[number] for number in calls.kinds_N]
    assert Counter(kinds) == {"good": 70, "bad": 10, "cancel": 20}
    assert kinds != sorted(kinds, key=KINDS.index)
    assert (schedule(10, 10, mix=shares("good=7,bad=1,cancel=2")).kinds_N == calls.kinds_N).all()


@given(st.dictionaries(st.sampled_from(KINDS), st.integers(0, 9), min_size=1).filter(lambda mix: any(mix.values())))
def test_shares_sum_to_1_and_no_kind_is_off_by_a_call(mix: dict[Kind, int]) -> None:
    found = shares(",".join(f"{kind}={share}" for kind, share in mix.items()))
    assert sum(found.values()) == pytest.approx(1)
    counts = np.bincount(schedule(97, 1, mix=found).kinds_N, minlength=len(KINDS))
    assert counts.sum() == 97
    for kind, count in zip(KINDS, counts, strict=True):
        assert abs(count - 97 * found.get(kind, 0.0)) <= 1


@pytest.mark.parametrize("text", ["", "good", "good=x", "good=-1", "good=nan", "good=inf", "ugly=1", "good=0"])
def test_a_mix_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="mix"):
        shares(text)


@pytest.mark.parametrize("numbers", [(0, 1, 0), (1, 0, 0), (1, 1, -1), (1e6, 60, 0), (0.1, 1, 0)])
def test_a_schedule_that_is_none(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|at most|at least"):
        schedule(*numbers)


# The open loop


def test_a_stalled_server_shows_in_all_calls_that_would_have_waited(clock: Clock) -> None:
    fake = Fake(lambda number: 0.6 if number == 0 else 0.0)
    ran, latencies = done(clock, run(schedule(10, 1), 1.0, fake, 5.0, progress=quiet))
    assert latencies.tolist() == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0], abs=1e-6)
    assert summary(ran, 0.35)["late_answers"] == 3


def test_a_stalled_loader_shows_too_and_says_so(clock: Clock) -> None:
    def stall(number: int) -> float:
        clock.now += 0.45 if number == 2 else 0.0  # as if this process had not run
        return 0.0

    ran, latencies = done(clock, run(schedule(10, 1), 1.0, Fake(stall), 5.0, progress=quiet))
    expected = [0, 0, 0.45, 0.35, 0.25, 0.15, 0.05, 0, 0, 0]
    assert latencies.tolist() == pytest.approx(expected, abs=1e-6)
    figures = summary(ran, 5.0)
    assert figures["loader"]["send_lag_ms"]["p99"] == pytest.approx(350, abs=0.01)  # the third was sent in time
    assert "350 ms after its time" in str(bottleneck(figures))


def test_calls_beyond_the_most_are_not_sent_and_counted(clock: Clock) -> None:
    ran, _ = done(clock, run(schedule(10, 1), 1.0, Fake(lambda number: 9.0), 20.0, most=3, progress=quiet))
    figures = summary(ran, 20.0)
    # Of three answers one took 9 s, the next 18 s, and the third was not waited for.
    assert figures["kinds"]["good"]["endings"] == {"NOT_SENT TOO_MANY_IN_FLIGHT": 7, "OK": 2, "UNFINISHED": 1}
    assert figures["loader"]["not_sent"] == 7
    assert "could not send 7 calls" in str(bottleneck(figures))


def test_a_slow_caller_s_own_pauses_do_not_count(clock: Clock) -> None:
    class Slow(Fake):
        async def call(self, kind: Kind, until: float) -> Ended:
            assert until == pytest.approx(open_loop.monotonic() + 0.25 + 5)
            await asyncio.sleep(0.25)
            return await super().call(kind, until)

    slow = Slow(lambda number: 0.1)
    ran, latencies = done(clock, run(schedule(1, 2, mix={"slow": 1.0}), 2.0, slow, 5.0, progress=quiet))
    assert latencies.tolist() == pytest.approx([0.1, 0.1])
    assert ran.records.rows["scheduled"].tolist() == pytest.approx([0.25, 1.25])


def test_ctrl_c_keeps_what_was_measured(clock: Clock) -> None:
    class Interrupted(Fake):
        async def call(self, kind: Kind, until: float) -> Ended:
            if self.calls == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return await super().call(kind, until)

    ran, _ = done(clock, run(schedule(10, 5), 5.0, Interrupted(lambda number: 0.25), 5.0, progress=quiet))
    assert ran.interrupted
    assert ran.seconds == pytest.approx(0.5, abs=0.11)
    endings = summary(ran, 5.0)["kinds"]["good"]["endings"]
    assert endings["OK"] >= 1  # at 0.25 s
    assert endings["UNFINISHED"] >= 3


def test_progress_tells_the_endings(clock: Clock) -> None:
    told: list[str] = []
    done(clock, run(schedule(10, 2.05), 2.05, Fake(lambda number: 0.0, "UNAVAILABLE"), 5.0, progress=told.append))
    assert len(told) == 2
    assert "UNAVAILABLE 9" in told[0]


# The closed loop


def test_a_closed_loop_counts_from_answer_to_answer(clock: Clock) -> None:
    """A server that answers 4 calls together every 0.1 s answers 40 a second, wherever the window lies."""
    waiting: list[asyncio.Future[bool]] = []

    async def one() -> bool:
        waiting.append(asyncio.get_running_loop().create_future())
        return await waiting[-1]

    async def answer() -> None:
        while True:
            await asyncio.sleep(0.1)
            for future in waiting:
                future.set_result(True)
            waiting.clear()

    async def work() -> float:
        answering = asyncio.create_task(answer())
        found = await closed_loop.saturated(one, 4, seconds=1.03, warm=0.17)
        answering.cancel()
        return found

    assert clock.run_until_complete(work()) == pytest.approx(40)


def test_a_closed_loop_ends_where_nobody_answers(clock: Clock) -> None:
    async def one() -> bool:
        return False

    assert clock.run_until_complete(closed_loop.saturated(one, 4, seconds=1.0, warm=0.5)) == 0


# Figures


def test_percentiles_are_values_that_were_seen() -> None:
    values = np.arange(1, 101, dtype=float)
    expected = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99.9": 100, "p100": 100}
    assert percentiles(np.random.default_rng(0).permutation(values)) == expected
    assert percentiles(np.array([])) is None


@example(list(range(20)), 55)  # 0.55 * 20 is more than 11, in floating point
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 100))
def test_so_many_percent_are_at_most_the_percentile(values: list[float], percent: int) -> None:
    [found] = (percentiles(np.array(values), [percent]) or {}).values()
    assert found == sorted(values)[-(-percent * len(values) // 100) - 1]


def test_a_summary_that_can_be_counted_by_hand(tmp_path: Path) -> None:
    records = Records(9)
    ok = Ended("OK", "", 1, (0.001, 0.002, 0.003, 0.004))
    records.add("good", -0.5, -0.5, 0.1, ok)  # of the warm-up
    records.add("good", 0.0, 0.001, 0.1, ok)
    records.add("good", 0.5, 0.5, 1.7, ok)  # late
    records.add("question", 1.0, 1.0, 1.3, ok)
    records.add("slow", 1.2, 1.2, 1.4, Ended("OK", "", 4))
    records.add("bad", 1.5, 1.5, 1.51, Ended("INVALID_ARGUMENT", "CORRUPT_IMAGE"))
    records.add("good", 1.6, 1.6, 1.605, Ended("RESOURCE_EXHAUSTED", "QUEUE_FULL"))
    records.add("cancel", 1.7, 1.7, 1.8, Ended("CANCELLED"))
    records.add("cancel", 1.8, 1.8, 1.9, ok)  # before it could cancel
    figures = summary(Ran(records, 2.0, 0.1, False), deadline=1.0)
    assert (figures["calls"], figures["offered_per_s"]) == (8, 4)
    assert figures["answered_per_s"] == 4  # 1 + 1 + 1 + 4 + 1 pictures in 2 s
    assert figures["goodput_per_s"] == 3  # 1 + 1 + 4: not the late one, not the one that nobody waits for
    assert figures["late_answers"] == 1
    assert figures["latency_ms"] == pytest.approx(
        {"p50": 200, **dict.fromkeys(("p90", "p95", "p99", "p99.9"), 1200), "p100": 1200}
    )
    assert figures["refused_ms"]["p50"] == pytest.approx(5)
    assert figures["stages_ms"]["search"] == pytest.approx({"p50": 3, "p99": 3})
    assert figures["kinds"]["good"]["endings"] == {"OK": 2, "RESOURCE_EXHAUSTED QUEUE_FULL": 1}
    assert figures["kinds"]["cancel"]["endings"] == {"CANCELLED": 1, "OK": 1}
    assert bottleneck(figures) is None

    records.write_csv(tmp_path / "calls.csv")
    with (tmp_path / "calls.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 9
    assert rows[1] == {
        "scheduled_s": "0.000000", "sent_s": "0.001000", "finished_s": "0.100000", "kind": "good", "code": "OK",
        "reason": "", "captions": "1", "latency_ms": "100.000", "decode_ms": "1.000", "encode_ms": "2.000",
        "search_ms": "3.000", "queue_ms": "4.000",
    }  # fmt: skip
    assert (rows[5]["reason"], rows[5]["decode_ms"]) == ("CORRUPT_IMAGE", "")


def test_a_run_without_answers_has_figures_and_a_plot(tmp_path: Path) -> None:
    ran = Ran(Records(1), 0.0, 0.0, True)
    assert summary(ran, 1.0)["latency_ms"] is None
    plot({"nothing": (ran, 1.0)}, tmp_path / "nothing.svg")
    assert (tmp_path / "nothing.svg").read_text().startswith("<?xml")


# Pictures


def saved(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(decode_image(jpeg())).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
@pytest.mark.parametrize("number", [0, 1, 0xFFD9FFDAFFC0FFE1, 2**64 - 1])
def test_distinct_pictures_have_the_same_pixels_and_other_digests(options: dict[str, Any], number: int) -> None:
    photo = saved(format="JPEG", **options)
    other = distinct(photo, number)
    assert (decode_image(other) == decode_image(photo)).all()
    with Image.open(io.BytesIO(other)) as opened, Image.open(io.BytesIO(photo)) as original:
        assert opened.tobytes() == original.tobytes()
    assert len({photo_key(photo), photo_key(other), photo_key(distinct(photo, number ^ 1))}) == 3


def test_pictures_take_turns_and_none_is_sent_twice() -> None:
    photos = Photos([jpeg(shade=1), jpeg(shade=2)])
    sent = [photos.next() for _ in range(6)]
    assert len(set(sent)) == 6
    pixels = [decode_image(photo).tobytes() for photo in sent]
    assert pixels[0] == pixels[2] == pixels[4] != pixels[1] == pixels[3] == pixels[5]
    assert not set(sent) & {Photos(photos.jpegs).next() for _ in range(6)}


def test_pictures_of_a_folder_as_jpeg_of_one_size(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(saved(format="PNG"))
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "notes.txt").write_text("no picture")
    as_they_are = read_photos([tmp_path])
    assert as_they_are[0] == jpeg()
    assert [Image.open(io.BytesIO(photo)).format for photo in as_they_are] == ["JPEG", "JPEG"]
    sizes = [Image.open(io.BytesIO(photo)).size for photo in read_photos([tmp_path], (64, 48))]
    assert sizes == [(64, 48), (64, 48)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no photo"):
        read_photos([tmp_path / "empty"])


# Servers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two pictures."""
    for shade in (1, 2):
        (tmp_path / f"{shade}.jpg").write_bytes(jpeg(shade=shade))
    return tmp_path


def test_every_kind_of_caller_ends_as_it_should(tiny_bundle_answers: Path, folder: Path, capsys: Any) -> None:
    arguments = [
        "--photos",
        str(folder),
        "--rate",
        "20",
        "--seconds",
        "1.5",
        "--warm",
        "0.5",
        "--out",
        str(folder / "out"),
    ]
    mix = "good=4,bad=4,slow=2,question=4,cancel=2"
    with running(tiny_bundle_answers) as server:
        main(["--server", server.target, "--mix", mix, "--deadline", "60", *arguments])
    figures = json.loads((folder / "out" / "run.json").read_text())
    kinds = figures["kinds"]
    assert set(kinds) == set(KINDS)
    for kind in ("good", "slow", "question"):
        assert list(kinds[kind]["endings"]) == ["OK"], kind
    assert {ending.split()[0] for ending in kinds["bad"]["endings"]} == {"INVALID_ARGUMENT"}
    assert {"INVALID_ARGUMENT EMPTY_IMAGE", "INVALID_ARGUMENT UNSUPPORTED_FORMAT"} <= set(kinds["bad"]["endings"])
    assert set(kinds["cancel"]["endings"]) <= {"CANCELLED", "OK"}
    assert figures["model"].startswith("tiny@")
    assert figures["stages_ms"]["search"]["p50"] > 0
    with (folder / "out" / "calls.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert {row["captions"] for row in rows if row["kind"] == "slow"} == {"4"}
    assert (folder / "out" / "run.svg").stat().st_size > 1000
    assert f"{figures['calls']} calls in 1.5 s" in capsys.readouterr().out


def test_a_full_server_s_refusals_are_counted_with_their_reason(tiny_bundle: Path, folder: Path) -> None:
    arguments = ["--photos", str(folder), "--rate", "20", "--seconds", "1", "--warm", "0", "--out", str(folder)]
    with running(tiny_bundle) as server:
        server.server.admission.admitted = server.server.admission.max_queue
        main(["run", "--server", server.target, "--no-plot", *arguments])
        server.server.admission.admitted = 0
    figures = json.loads((folder / "run.json").read_text())
    assert figures["kinds"]["good"]["endings"] == {"RESOURCE_EXHAUSTED QUEUE_FULL": 20}
    assert figures["refused_ms"]["p50"] > 0
    assert figures["latency_ms"] is None


def test_a_full_server_is_spared_calls_if_asked_for(tiny_bundle: Path, folder: Path) -> None:
    arguments = ["--photos", str(folder), "--rate", "100", "--seconds", "1", "--warm", "0", "--out", str(folder)]
    with running(tiny_bundle) as server:
        server.server.admission.admitted = server.server.admission.max_queue
        main(["run", "--server", server.target, "--throttle", "2", "--no-plot", *arguments])
        server.server.admission.admitted = 0
    endings = json.loads((folder / "run.json").read_text())["kinds"]["good"]["endings"]
    sent, held = (endings[f"RESOURCE_EXHAUSTED {reason}"] for reason in ("QUEUE_FULL", "THROTTLED"))
    assert sent + held == 100
    assert held > sent >= 10


def test_a_bad_option_is_one_sentence(folder: Path) -> None:
    arguments = ["--photos", str(folder), "--rate", "1", "--seconds", "1", "--out", str(folder)]
    with pytest.raises(SystemExit, match=r"error: the mix"):
        main(["run", "--server", "127.0.0.1:1", "--mix", "ugly=1", *arguments])


def test_capacity_beside_the_engine_and_overload(tiny_bundle: Path, folder: Path, capsys: Any) -> None:
    parts = ["--rounds", "2", "--seconds", "0.5", "--warm", "0.2", "--level-seconds", "0.5", "--size", "64x64"]
    main(["capacity", "--bundle", str(tiny_bundle), "--photos", str(folder), "--out", str(folder / "out"), *parts,
          "--threads", "1", "--overload", "2"])  # fmt: skip
    figures = json.loads((folder / "out" / "capacity.json").read_text())
    assert len(figures["rounds"]) == 2
    for each in figures["rounds"]:
        assert each["ratio"] == each["server"]["per_s"] / each["in_process"]["per_s"]
        assert each["server"]["mean_batch"]["search"] >= 1
        assert each["in_process"]["mean_batch"]["search"] >= 1
    assert set(figures["levels"]) == {"50 % of capacity", "80 % of capacity", "100 % of capacity"}
    assert "aim: at least 0.85" in capsys.readouterr().out
    assert "stopped" in (folder / "out" / "server.log").read_text()


def test_the_naive_server_writes_the_same_captions(tiny_bundle: Path, folder: Path, capsys: Any) -> None:
    with naive_server(tiny_bundle) as (_, port), running(tiny_bundle, engine=FP32) as real:
        naive = f"127.0.0.1:{port}"
        found = []
        for target in (naive, real.target):
            with grpc.insecure_channel(target) as channel:
                stub = captioner_pb2_grpc.CaptionServiceStub(channel)
                requests = [pb.CaptionImageRequest(image=jpeg(shade=shade), beam_size=7) for shade in (0, 60, 120)]
                found.append([stub.CaptionImage(request) for request in requests])
        parts = ["--rounds", "1", "--seconds", "0.5", "--warm", "0.2", "--size", "64x64", "--out", str(folder / "out")]
        main(["compare", "--server", real.target, "--against", naive, "--photos", str(folder), *parts])
    for ours, theirs in zip(*found, strict=True):
        assert ours.model_version == theirs.model_version
        assert len(ours.captions) == 3
        for one, other in zip(ours.captions, theirs.captions, strict=True):
            assert one.text == other.text
            assert [word.text for word in one.words] == [word.text for word in other.words]
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
    figures = json.loads((folder / "out" / "compare.json").read_text())
    rates, times = figures["captions_per_s"], figures["latency_ms"]
    assert figures["first_over_second"] == rates["first"] / rates["second"]
    assert figures["rate"] == pytest.approx(0.8 * min(rates.values()))
    assert figures["second_p99_over_first"] == pytest.approx(times["second"]["p99"] / times["first"]["p99"])
    assert "times as many" in capsys.readouterr().out


def test_the_naive_server_refuses_bytes_that_are_no_picture(tiny_bundle: Path) -> None:
    with (
        naive_server(tiny_bundle) as (_, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        captioner_pb2_grpc.CaptionServiceStub(channel).CaptionImage(pb.CaptionImageRequest(image=b"nothing"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
