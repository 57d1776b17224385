"""What became of every call: 60 bytes each while they run, a line of CSV each at the end."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.atomic import replace_file
from services.load.schedule import KINDS, Kind

STAGES = ("decode", "encode", "search", "queue")
COLUMNS = (
    "scheduled_s", "sent_s", "finished_s", "kind", "code", "reason", "captions", "latency_ms",
    *(f"{stage}_ms" for stage in STAGES),
)  # fmt: skip
NOT_SENT = "NOT_SENT"
"""The code of a call that the loader could not send, reason LATE or TOO_MANY_IN_FLIGHT."""
UNFINISHED = "UNFINISHED"
"""The code of a call that was cut off at the end of the run."""
_ROW = np.dtype([
    ("scheduled", "f8"), ("sent", "f8"), ("finished", "f8"), ("kind", "u1"), ("ended", "u2"), ("captions", "u2"),
    ("stages", "f4", len(STAGES)),
])  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a call ended, for the one who made it."""

    code: str
    """The name of a gRPC status, NOT_SENT or UNFINISHED."""
    reason: str = ""
    """Of ErrorInfo."""
    captions: int = 0
    """Pictures that were answered."""
    stages: tuple[float, ...] = (np.nan,) * len(STAGES)
    """Seconds, as the server says; NaN if it does not."""


class Records:
    """Room for N calls; times are seconds from the end of the warm-up."""

    def __init__(self, most: int):
        self._rows = np.zeros(most, _ROW)
        self._count = 0
        self._endings: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, kind: Kind, scheduled: float, sent: float, finished: float, ended: Ended) -> None:
        """A call that ended: when it was to be sent, was sent, and ended."""
        number = self._endings.setdefault((ended.code, ended.reason), len(self._endings))
        row = (scheduled, sent, finished, KINDS.index(kind), number, ended.captions, ended.stages)
        self._rows[self._count] = row
        self._count += 1

    @property
    def rows(self) -> NDArray[Any]:
        """By scheduled time: fields scheduled, sent, finished, kind, ended, captions, stages."""
        rows = self._rows[: self._count]
        return rows[np.argsort(rows["scheduled"], kind="stable")]

    @property
    def endings(self) -> list[tuple[str, str]]:
        """Code and reason of each number in the field `ended`."""
        return list(self._endings)

    def write_csv(self, path: Path) -> None:
        """A line for each call, warm-up included (its scheduled_s is negative)."""
        replace_file(path, self._write)

    def _write(self, path: Path) -> None:
        endings = self.endings
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for scheduled, sent, finished, kind, ended, captions, stages in self.rows.tolist():
                code, reason = endings[ended]
                times = ["" if isnan(s) else f"{1000 * s:.3f}" for s in (finished - scheduled, *stages)]
                moments = [f"{seconds:.6f}" for seconds in (scheduled, sent, finished)]
                writer.writerow([*moments, KINDS[kind], code, reason, captions, *times])
