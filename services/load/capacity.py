"""What a server can do, beside the same engine without a server, and what it does when asked for more.

Each round measures one after the other, so that a machine whose speed changes hurts both alike: the server in a closed
loop, the engine in this process in the same loop, and the server at several times what it has just done. What counts
is the median of the rounds' ratios. While one works the other has nothing to do, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Any

from services.engine import Engine
from services.load.callers import Callers
from services.load.closed_loop import saturated
from services.load.open_loop import Ran, run, say
from services.load.own_server import OwnServer
from services.load.schedule import schedule
from services.load.summary import bottleneck, summary
from services.observer import Observer, Stage

GENEROUS_SECONDS = 120.0
"""The deadline of calls that are not to fail for it: a naive server may keep 24 callers waiting for long."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 8.0
    """Of each part of a round."""
    warm: float = 1.5
    """Before each part of a round, not counted."""
    callers: int = 24
    """Of the closed loops: three full batches, so that one is read and one waits while one runs."""
    overload: float = 5.0
    """Times the capacity."""
    deadline: float = 1.0
    """Of the calls under overload."""
    levels: tuple[float, ...] = (0.5, 0.8, 1.0)
    """Shares of the capacity at which latency is measured."""
    level_seconds: float = 30.0
    poisson: bool = False


class Batches(Observer):
    """Counts images and runs by stage, as a server's metrics do."""

    def __init__(self) -> None:
        self.counts: dict[str, tuple[float, float]] = {}

    def stage(self, model: str, stage: Stage, seconds: float, images: int) -> None:
        """See Observer."""
        before = self.counts.get(stage, (0.0, 0.0))
        self.counts[stage] = (before[0] + images, before[1] + 1)

    def batches(self) -> dict[str, tuple[float, float]]:
        """Until now."""
        return dict(self.counts)


Read = Callable[[], Mapping[str, tuple[float, float]]]


async def capacity(
    callers: Callers, engine: Engine, plan: Plan, server: OwnServer | None, batches: Batches
) -> tuple[dict[str, Any], dict[str, tuple[Ran, float]]]:
    """The figures, and the runs to plot with their deadlines.

    engine: the same model, warm, in this process, with the observer `batches`. server: None where its metrics are
    unknown.
    """
    options = engine.captioner.options(beam_size=callers.asking.beam_size)

    async def remote() -> bool:
        return (await callers.caption(monotonic() + GENEROUS_SECONDS)).code == "OK"

    async def local() -> bool:
        await engine.caption(callers.photos.next(), options)
        return True

    loops = [("server", remote, None if server is None else server.batches), ("in_process", local, batches.batches)]
    rounds, runs = [], {}
    for number in range(plan.rounds):
        figures: dict[str, Any] = {}
        for name, one, read in loops if number % 2 == 0 else reversed(loops):
            figures[name] = await _saturated(one, read, plan)
        figures["ratio"] = _ratio(figures["server"]["per_s"], figures["in_process"]["per_s"])
        peak = figures["server"]["per_s"]
        ran, figures["overload"] = await _level(callers, plan.overload * peak, plan, plan.seconds, plan.deadline)
        figures["goodput_over_peak"] = _ratio(figures["overload"]["goodput_per_s"], peak)
        runs[f"{plan.overload:g} times capacity"] = (ran, plan.deadline)
        rounds.append(figures)
        say(f"round {number + 1} of {plan.rounds}: {_line(figures)}")
        if ran.interrupted:
            break
    middle = {name: median(each[name]["per_s"] for each in rounds) for name in ("server", "in_process")}
    levels: dict[str, Any] = {}
    for share in () if ran.interrupted else plan.levels:
        name = f"{100 * share:g} % of capacity"
        ran, levels[name] = await _level(callers, share * middle["server"], plan, plan.level_seconds, GENEROUS_SECONDS)
        runs[name] = (ran, GENEROUS_SECONDS)
        say(f"{name}: {levels[name]['latency_ms']}")
        if ran.interrupted:
            break
    return {
        "captions_per_s": middle,
        "server_over_in_process": median(each["ratio"] for each in rounds),
        "goodput_over_peak": median(each["goodput_over_peak"] for each in rounds),
        "late_answers": sum(each["overload"]["late_answers"] for each in rounds),
        "levels": levels,
        "rounds": rounds,
    }, runs


async def _saturated(one: Callable[[], Awaitable[bool]], read: Read | None, plan: Plan) -> dict[str, Any]:
    """Answers a second, and the mean batch of each stage."""
    before = {} if read is None else read()
    per_s = await saturated(one, plan.callers, plan.seconds, plan.warm)
    after = {} if read is None else read()
    mean = {}
    for stage, (images, runs) in after.items():
        images, runs = (now - then for now, then in zip((images, runs), before.get(stage, (0, 0)), strict=True))
        mean[stage] = images / runs if runs else 0.0
    return {"per_s": per_s, "mean_batch": mean}


async def _level(
    callers: Callers, rate: float, plan: Plan, seconds: float, deadline: float
) -> tuple[Ran, dict[str, Any]]:
    """An open loop at a rate."""
    calls = schedule(rate, seconds, plan.warm, poisson=plan.poisson)
    ran = await run(calls, seconds, callers, deadline, progress=lambda text: None)
    figures = summary(ran, deadline)
    if (why := bottleneck(figures)) is not None:
        say(f"WARNING: {why}")
    return ran, figures


async def compare(
    first: Callers, second: Callers, plan: Plan, share: float
) -> tuple[dict[str, Any], dict[str, tuple[Ran, float]]]:
    """Two servers that are both up, in turns: the first's rate over the second's, and latencies at the same rate.

    share: of the slower one's capacity, for the latencies.
    """
    both = {"first": first, "second": second}

    async def caption(callers: Callers) -> bool:
        return (await callers.caption(monotonic() + GENEROUS_SECONDS)).code == "OK"

    rounds: list[dict[str, Any]] = []
    for number in range(plan.rounds):
        figures: dict[str, Any] = {}
        for name, callers in _turns(both, number):
            figures[name] = await saturated(
                lambda callers=callers: caption(callers), plan.callers, plan.seconds, plan.warm
            )
        figures["ratio"] = _ratio(figures["first"], figures["second"])
        rounds.append(figures)
        say(f"round {number + 1} of {plan.rounds}: {figures['first']:.1f}/s and {figures['second']:.1f}/s")
    rate = share * min(median(each[name] for each in rounds) for name in both)
    if not rate:
        raise RuntimeError(f"a server answered nothing: {rounds}")
    latencies: list[dict[str, Any]] = []
    runs = {}
    for number in range(plan.rounds):
        figures = {}
        for name, callers in _turns(both, number):
            ran, figures[name] = await _level(callers, rate, plan, plan.seconds, GENEROUS_SECONDS)
            runs[f"{name} server, {rate:.1f} calls a second"] = (ran, GENEROUS_SECONDS)
            if ran.interrupted:
                raise KeyboardInterrupt
        latencies.append(figures)
        say(f"round {number + 1} of {plan.rounds} at {rate:.1f}/s: " + ", ".join(
            f"p99 {figures[name]['latency_ms']['p99']:.0f} ms" for name in both if figures[name]["latency_ms"]
        ))  # fmt: skip
    return {
        "captions_per_s": {name: median(each[name] for each in rounds) for name in both},
        "first_over_second": median(each["ratio"] for each in rounds),
        "rate": rate,
        "latency_ms": {name: {key: _median(latencies, name, key) for key in ("p50", "p99")} for name in both},
        "second_p99_over_first": median(
            _ratio(_of(each, "second", "p99"), _of(each, "first", "p99")) for each in latencies
        ),
        "rounds": rounds,
        "latency_rounds": latencies,
    }, dict(sorted(runs.items()))


def _turns(both: Mapping[str, Callers], number: int) -> Sequence[tuple[str, Callers]]:
    pairs = list(both.items())
    return pairs if number % 2 == 0 else pairs[::-1]


def _of(figures: Mapping[str, Any], name: str, key: str) -> float:
    times = figures[name]["latency_ms"]
    return float("nan") if times is None else float(times[key])


def _median(rounds: Sequence[Mapping[str, Any]], name: str, key: str) -> float:
    return median(_of(each, name, key) for each in rounds)


def _ratio(one: float, other: float) -> float:
    return one / other if other else float("nan")


def _line(figures: Mapping[str, Any]) -> str:
    overload = figures["overload"]
    return (
        f"server {figures['server']['per_s']:.1f}/s, in process {figures['in_process']['per_s']:.1f}/s, "
        f"ratio {figures['ratio']:.3f}; offered {overload['offered_per_s']:.0f}/s, "
        f"in time {overload['goodput_per_s']:.1f}/s = {figures['goodput_over_peak']:.2f} of the peak, "
        f"late {overload['late_answers']}"
    )
