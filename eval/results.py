"""COCO results ([{"image_id", "caption"}, ...]): reading them, what stands beside a score, and tables of scores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.coco import CaptionSplit
from eval.metrics import IMPLEMENTATION, METRICS, TOKENIZER


def load_results(path: Path) -> dict[int, str]:
    """Captions by image id, in file order; ValueError names the file and the entry that is wrong."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ValueError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise ValueError(f"{path}: not JSON: {e}") from e
    if not isinstance(document, list):
        raise ValueError(f'{path}: must be a list of {{"image_id", "caption"}}, got {type(document).__name__}')
    results: dict[int, str] = {}
    for n, entry in enumerate(document):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: [{n}] must be an object, got {type(entry).__name__}")
        image_id, caption = entry.get("image_id"), entry.get("caption")
        if not isinstance(image_id, int) or isinstance(image_id, bool):
            raise ValueError(f"{path}: [{n}].image_id must be an integer, got {image_id!r:.60}")
        if not isinstance(caption, str):
            raise ValueError(f"{path}: [{n}].caption must be a string, got {caption!r:.60}")
        if image_id in results:
            raise ValueError(f"{path}: [{n}].image_id {image_id} is in the file twice")
        results[image_id] = caption
    if not results:
        raise ValueError(f"{path}: holds no captions")
    return results


def provenance(split: CaptionSplit) -> dict[str, Any]:
    """What must stand beside a score for it to mean something."""
    return {
        "implementation": IMPLEMENTATION,
        "tokenizer": TOKENIZER,
        "annotations": split.annotations.name,
        "split": split.split,
        "commit": commit(),
    }


def commit() -> str | None:
    """The git commit of this checkout, with -dirty after it if files differ; None outside a checkout."""
    root = Path(__file__).parent.parent
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # Only this checkout's own: an installation inside somebody else's repository has none.
        if not (root / ".git").exists():
            return None
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def honest_table(scores: Mapping[str, Any]) -> str:
    """A scores.json as a table: the captions with their intervals, and the rows that keep people honest; x 100."""
    rows = {"": scores["metrics"], **{name: row["metrics"] for name, row in scores.get("rows", {}).items()}}
    names = metric_names(scores["metrics"])
    shown = ([label, *(f"{100 * own[n]:.1f}" if n in own else "" for n in names)] for label, own in rows.items())
    cells = [["", *names], *shown]
    ends = scores.get("intervals", {})
    between = [f"{100 * ends[n][0]:.1f}-{100 * ends[n][1]:.1f}" if n in ends else "" for n in names]
    return table([cells[0], cells[1], ["  95 % interval", *between], *cells[2:]])


def curve_table(curve: Sequence[Mapping[str, Any]]) -> str:
    """One row for each beam size; x 100."""
    names = metric_names(curve[0]["metrics"])
    rows = ([str(row["beam_size"]), *(f"{100 * row['metrics'][n]:.1f}" for n in names)] for row in curve)
    return table([["beam size", *names], *rows])


def metric_names(metrics: Mapping[str, float]) -> list[str]:
    """In the usual order; CIDEr_D is the same number as CIDEr and needs no second column."""
    return [name for name in (*METRICS, "METEOR", "SPICE") if name != "CIDEr_D" and name in metrics]


def table(cells: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def warn(message: str) -> None:
    """One line for the person at the terminal."""
    print(f"warning: {message}", file=sys.stderr)
