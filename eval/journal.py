"""A journal of finished batches, so that a run may be killed at any moment and go on where it was.

One JSON line per batch, on disk before the next batch starts. Batches are fixed slices of the list of pictures, because
int8 activations are scaled over a whole batch: only the same batches give the same captions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from captioner.atomic import write_json

SETTINGS = "settings.json"
JOURNAL = "journal.jsonl"


class Journal:
    """Finished batches by number, kept in `folder`; use it in a with statement."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], restart: bool = False):
        """Go on with the run in `folder`, or begin one; ValueError if that run had other settings.

        settings are what decides the results, as plain JSON values. restart throws the old run's batches away.
        """
        self.path = folder / JOURNAL
        self.batches: dict[int, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if restart:
            self.path.unlink(missing_ok=True)
        elif (folder / SETTINGS).exists():
            _same(folder / SETTINGS, settings)
        write_json(folder / SETTINGS, dict(settings))
        self._file: BinaryIO = self.path.open("ab")
        self._file.truncate(self._read())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, batch: int, record: Mapping[str, Any]) -> None:
        """Add a finished batch; when this returns it is on disk. The last record of a batch counts."""
        line = json.dumps({"batch": batch, **record}, ensure_ascii=False, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.batches[batch] = dict(record)

    def _read(self) -> int:
        """Read what is there; returns how many bytes of it are whole lines."""
        whole = 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        for n, line in enumerate(lines, 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("no end of line")
                record = json.loads(line)
                self.batches[record.pop("batch")] = record
            except (ValueError, KeyError, AttributeError, TypeError) as e:
                if n == len(lines):  # torn: the run was killed while it wrote this line
                    break
                raise ValueError(f"{self.path}: line {n} is damaged; pass --restart to begin again") from e
            whole += len(line)
        return whole


def _same(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        old = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as e:
        raise ValueError(f"{path}: damaged; pass --restart to begin again") from e
    # In JSON a tuple is a list: compare what would be read back.
    new = json.loads(json.dumps(dict(settings)))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        what = ", ".join(f"{name} was {old.get(name)!r} and is now {new.get(name)!r}" for name in differing)
        raise ValueError(f"{path.parent} holds a run with other settings: {what}; pass --restart to begin again")
