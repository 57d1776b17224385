"""A line chart as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval.report_html import Html, element

MOST_VALUES = 8
"""Points of a curve up to which each has its value beside it."""


def chart(title: str, points: Sequence[tuple[int, float]]) -> Html:
    """A line over beam size; points are (k, score), in order of k, at least two."""
    width, height, left, right, top, bottom = 420, 250, 46, 404, 44, 206
    ks, values = zip(*points, strict=True)
    step = _round_step(max(max(values) - min(values), 1.0) / 4)
    low = math.floor(min(values) / step - 0.4) * step  # room for a value below its dot
    ticks = [low + n * step for n in range(math.ceil((max(values) - low) / step) + 1)]
    inset = 16  # so that the first value stands clear of the axis
    x = [round(left + inset + (k - ks[0]) / (ks[-1] - ks[0]) * (right - left - 2 * inset), 1) for k in ks]

    def y(score: float) -> float:
        return round(bottom - (score - low) / (ticks[-1] - low) * (bottom - top), 1)

    parts = [element("text", f"{title} × 100", x=0, y=16, class_="name")]
    for tick in ticks:
        parts.append(element("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(element("text", f"{tick:g}", x=left - 8, y=y(tick) + 4, class_="tick end"))
    line = " ".join(f"{x[n]},{y(score)}" for n, score in enumerate(values))
    parts.append(element("polyline", points=line, class_="line"))
    named = range(len(ks)) if len(ks) <= MOST_VALUES else {0, len(ks) - 1, values.index(max(values))}
    for n, (k, score) in enumerate(points):
        parts.append(element("circle", element("title", f"k = {k}: {score:.1f}"), cx=x[n], cy=y(score), r=4))
        parts.append(element("text", str(k), x=x[n], y=bottom + 20, class_="tick middle"))
        if n in named:
            valley = 0 < n < len(ks) - 1 and values[n - 1] > score < values[n + 1]
            beside = y(score) + (20 if valley else -10)
            parts.append(element("text", f"{score:.1f}", x=x[n], y=beside, class_="value middle"))
    parts.append(element("text", "beam size k", x=(left + right) / 2, y=height - 6, class_="tick middle"))
    spoken = ", ".join(f"{score:.1f} at k = {k}" for k, score in points)
    label = f"{title} over beam size: {spoken}"
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def _round_step(at_least: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = math.pow(10, math.floor(math.log10(at_least)))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= at_least * 0.999)
