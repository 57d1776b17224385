"""A run in figures. Percentiles are exact: every latency is kept, none is put into a bucket of a histogram."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.load.open_loop import Ran
from services.load.records import NOT_SENT, STAGES
from services.load.schedule import KINDS

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
LAG_MS = 10.0
"""A loader that is later than this with one call in a hundred is told of."""


def percentiles(values: NDArray[Any], percents: Sequence[float] = PERCENTS) -> dict[str, float] | None:
    """ "p99" -> the smallest value that 99 % of the values do not exceed; None of no values. p100 is the largest."""
    if not len(values):
        return None
    ordered = np.sort(values)
    # Less a rounding error: numpy's percentile() takes 0.55 * 20 for more than 11.
    ranks = [math.ceil(percent * len(ordered) / 100 - 1e-9) for percent in percents]
    return {f"p{percent:g}": float(ordered[max(rank, 1) - 1]) for percent, rank in zip(percents, ranks, strict=True)}


def measured(ran: Ran) -> NDArray[Any]:
    """The calls whose time came after the warm-up and within the run."""
    rows = ran.records.rows
    return rows[(rows["scheduled"] >= 0) & (rows["scheduled"] <= ran.seconds + 1e-9)]


def summary(ran: Ran, deadline: float) -> dict[str, Any]:
    """Rates in calls or pictures a second, times in milliseconds; everything without the warm-up."""
    rows, endings = measured(ran), ran.records.endings
    codes = np.array([code for code, _ in endings] or [""])[rows["ended"]] if len(rows) else np.array([], str)
    latency_ms = 1000 * (rows["finished"] - rows["scheduled"])
    answered, late = codes == "OK", latency_ms > 1000 * deadline
    seconds = max(ran.seconds, 1e-9)
    # Only those who want an answer: bad callers get none, and who cancels does not wait for it.
    wanted = np.isin(rows["kind"], [KINDS.index(kind) for kind in ("good", "slow", "question")])
    sent = codes != NOT_SENT
    return {
        "seconds": ran.seconds,
        "interrupted": ran.interrupted,
        "deadline_s": deadline,
        "calls": len(rows),
        "offered_per_s": len(rows) / seconds,
        "answered_per_s": int(rows["captions"].sum()) / seconds,
        "goodput_per_s": int(rows["captions"][wanted & ~late].sum()) / seconds,
        "late_answers": int((answered & late).sum()),
        "latency_ms": percentiles(latency_ms[answered & wanted]),
        "refused_ms": percentiles(latency_ms[codes == "RESOURCE_EXHAUSTED"]),
        "stages_ms": {
            stage: percentiles(values[~np.isnan(values)], (50.0, 99.0))
            for stage, values in zip(STAGES, 1000 * rows["stages"].T, strict=True)
        },
        "kinds": {
            kind: {"endings": _endings(rows[of], endings), "latency_ms": percentiles(latency_ms[of & answered])}
            for number, kind in enumerate(KINDS)
            if (of := rows["kind"] == number).any()
        },
        "loader": {
            "send_lag_ms": percentiles(1000 * (rows["sent"] - rows["scheduled"])[sent]),
            "not_sent": int((~sent).sum()),
            "cores": ran.loader_cpu,
        },
    }


def _endings(rows: NDArray[Any], endings: Sequence[tuple[str, str]]) -> dict[str, int]:
    counts = Counter(rows["ended"].tolist())
    return {" ".join(endings[number]).strip(): count for number, count in counts.most_common()}


def bottleneck(figures: Mapping[str, Any]) -> str | None:
    """Why the figures are not the server's alone, in a sentence; None if they are."""
    loader = figures["loader"]
    if loader["not_sent"]:
        return f"the loader could not send {loader['not_sent']} calls in time: lower --rate, or raise --most"
    lag = loader["send_lag_ms"]
    if lag is not None and lag["p99"] > LAG_MS:
        return f"the loader itself was late: it sent 1 call in 100 more than {lag['p99']:.0f} ms after its time"
    return None


def text(figures: Mapping[str, Any]) -> str:
    """A few lines for people."""
    lines = [
        f"{figures['calls']} calls in {figures['seconds']:.1f} s: offered {figures['offered_per_s']:.1f}/s, "
        f"answered {figures['answered_per_s']:.1f}/s, within {figures['deadline_s']:g} s "
        f"{figures['goodput_per_s']:.1f}/s, later {figures['late_answers']}"
    ]
    for name, times in (
        ("latency of answers", figures["latency_ms"]),
        ("until a refusal", figures["refused_ms"]),
        ("send lag of the loader", figures["loader"]["send_lag_ms"]),
    ):
        if times is not None:
            lines.append(f"{name}, ms: " + ", ".join(f"{key} {value:.1f}" for key, value in times.items()))
    for kind, what in figures["kinds"].items():
        lines.append(f"{kind}: " + ", ".join(f"{ending} {count}" for ending, count in what["endings"].items()))
    if (why := bottleneck(figures)) is not None:
        lines.append(f"WARNING: {why}")
    return "\n".join(lines)
