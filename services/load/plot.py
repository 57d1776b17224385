"""Figures of runs as SVG: latencies over 1/(1 - p), where each nine is as wide as the last, and rates over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from captioner.atomic import replace_file
from services.load.open_loop import Ran
from services.load.summary import measured

NINES = ((0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %"))


def plot(runs: Mapping[str, tuple[Ran, float]], path: Path) -> None:
    """One row of two figures for each run, by its title: what was measured, and its deadline in seconds."""
    figure_of = _matplotlib()
    figure = figure_of(figsize=(10, 3.2 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 2, squeeze=False)
    for (title, (ran, deadline)), (left, right) in zip(runs.items(), axes, strict=True):
        _latencies(left, ran, title)
        _rates(right, ran, deadline)
    replace_file(path, lambda temporary: figure.savefig(temporary, format="svg", metadata={"Date": None}))


def _matplotlib() -> Any:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"plots need the extra captioner[load]: {error}") from error
    matplotlib.rcParams["svg.hashsalt"] = "load"  # or each file would differ
    return Figure


def _answered(ran: Ran, rows: Any) -> Any:
    return np.isin(rows["ended"], [n for n, (code, _) in enumerate(ran.records.endings) if code == "OK"])


def _latencies(axes: Any, ran: Ran, title: str) -> None:
    rows = measured(ran)
    latency_ms = np.sort(1000 * (rows["finished"] - rows["scheduled"])[_answered(ran, rows)])
    count = len(latency_ms)
    axes.set(title=title, xlabel="share of answers that took at most so long", ylabel="ms from the scheduled time")
    axes.set_xscale("log")
    shown = [(share, name) for share, name in NINES if share < 1 - 0.5 / max(count, 2)]
    axes.set_xticks([1 / (1 - share) for share, _ in shown], [name for _, name in shown])
    axes.minorticks_off()
    if count:
        share = np.arange(count) / count
        axes.plot(1 / (1 - share), latency_ms)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _rates(axes: Any, ran: Ran, deadline: float) -> None:
    """By the second in which calls were scheduled: what was asked for, answered, and answered in time."""
    rows = measured(ran)
    seconds = np.arange(max(1, int(ran.seconds + 1e-9)) + 1)
    in_time = _answered(ran, rows) & (rows["finished"] - rows["scheduled"] <= deadline)
    for name, weights, style in (
        ("calls", np.ones(len(rows)), "-"),
        ("pictures answered", rows["captions"], "-"),
        (f"answered within {deadline:g} s", rows["captions"] * in_time, "--"),
    ):
        counts, _ = np.histogram(rows["scheduled"], seconds, weights=weights)
        axes.stairs(counts, seconds, baseline=None, label=name, linestyle=style)
    axes.set(title="a second", xlabel="s", ylim=(0, None))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
