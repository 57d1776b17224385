"""Where the time of a run goes, and how many pictures a second it makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any


class Stopwatch:
    """Runs from its making; stages are timed in with statements."""

    def __init__(self) -> None:
        self._begun = perf_counter()
        self.stages: dict[str, float] = {}
        """Seconds by name."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + perf_counter() - begun

    def report(self, pictures: int) -> dict[str, Any]:
        """Pictures a second since the start; seconds of every stage and of the rest, and their shares of it all."""
        total = perf_counter() - self._begun
        seconds = {**self.stages, "other": total - sum(self.stages.values())} if self.stages else {}
        return {
            "pictures": pictures,
            "seconds": total,
            "pictures_per_second": pictures / total,
            "stages": {name: {"seconds": spent, "share": spent / total} for name, spent in seconds.items()},
        }


def throughput_line(report: dict[str, Any]) -> str:
    """A report in one line, for people."""
    stages = ", ".join(f"{name} {100 * stage['share']:.0f} %" for name, stage in report["stages"].items())
    rate = f"{report['pictures']} pictures in {report['seconds']:.1f} s: {report['pictures_per_second']:.1f} a second"
    return f"{rate} ({stages})" if stages else rate
