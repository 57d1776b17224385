"""COCO results ([{"image_id", "caption"}, ...]): reading, scoring and the table of scores.

python -m eval score --annotations captions_val2017.json --results captions.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioner.atomic import write_json
from eval.coco import CaptionSplit, load_split
from eval.metrics import IMPLEMENTATION, TOKENIZER, score_captions


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


def score_results(results: Mapping[int, str], split: CaptionSplit) -> dict[str, float]:
    """The metrics of the results that have references; {} if none has, as on a test set."""
    known = {picture.image_id for picture in split.pictures}
    if unknown := [image_id for image_id in results if image_id not in known]:
        more = f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
        raise ValueError(f"image_id {unknown[0]}{more} not in {_where(split)}")
    references = split.references
    candidates = {image_id: caption for image_id, caption in results.items() if image_id in references}
    return score_captions(candidates, references) if candidates else {}


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


def score_table(rows: Sequence[tuple[str, Mapping[str, float]]], first: str = "") -> str:
    """One aligned row per (label, metrics); metrics are shown x 100."""
    names = list(rows[0][1])
    cells = [[first, *names], *([label, *(f"{100 * metrics[n]:.1f}" for n in names)] for label, metrics in rows)]
    return table(cells)


def table(cells: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, numbers to the right."""
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def warn(message: str) -> None:
    """One line for the person at the terminal."""
    print(f"warning: {message}", file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval score`."""
    parser.add_argument("--annotations", type=Path, required=True, help="captions in COCO's or Karpathy's layout")
    parser.add_argument("--results", type=Path, required=True, help='[{"image_id", "caption"}, ...]')
    parser.add_argument("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    parser.add_argument("--out", type=Path, help="write the scores to this JSON file")


def main(args: argparse.Namespace) -> None:
    """Score a file of results that anybody wrote."""
    split = load_split(args.annotations, Path(), args.split)
    results = load_results(args.results)
    try:
        metrics = score_results(results, split)
    except ValueError as e:
        raise ValueError(f"{args.results}: {e}") from e
    if not metrics:
        raise ValueError(f"{_where(split)} holds no captions to score against")
    references = split.references
    scored = [image_id for image_id in results if image_id in references]
    if left_out := len(results) - len(scored):
        warn(f"{left_out} of {len(results)} results are not scored: their pictures have no captions")
    if missing := len(references) - len(scored):
        warn(f"{missing} of {len(references)} pictures have no result: the scores are those of the other {len(scored)}")
    print(score_table([("", metrics)]))
    if args.out:
        counts = {"pictures": len(scored), "missing": missing}
        write_json(args.out, {"metrics": metrics, "results": args.results.name, **counts, **provenance(split)})


def _where(split: CaptionSplit) -> str:
    return str(split.annotations) if split.split is None else f"{split.annotations}, split {split.split}"
