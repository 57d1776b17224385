"""Our scores beside coco-caption's own code (pycocoevalcap, with its Java tokeniser): the same digits, and the time.

    python -m eval official --annotations captions_train.json --limit 5000

Without --results every picture gets the first caption of the next picture. Each repeat runs both as processes of their
own from start to end: read the files, tokenise, BLEU, ROUGE-L and CIDEr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from captioner.atomic import write_json
from eval.coco import CaptionSplit, load_split
from eval.results import load_results, table

SIDES = ("ours", "official")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval official`."""
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="captions in COCO's or Karpathy's layout")
    add("--results", type=Path, help='[{"image_id", "caption"}, ...]')
    add("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    add("--limit", type=int, metavar="N", help="only the first N pictures")
    add("--repeats", type=int, default=3, help="default: 3")


def main(args: argparse.Namespace) -> None:
    """Run both in turns, print the medians, their ratio and the largest difference."""
    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {args.repeats}")
    split = load_split(args.annotations, Path(), args.split)
    results = load_results(args.results) if args.results else _next_captions(split)
    wanted = [image_id for image_id in split.references if image_id in results][: args.limit]
    if not wanted:
        raise ValueError(f"no picture of {split.name} has a result")
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    scores: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.json"
        references = split.references
        document = [{"image_id": i, "caption": results[i], "references": references[i]} for i in wanted]
        write_json(given, document)
        for _ in range(args.repeats):
            for side in SIDES:
                out = Path(folder) / f"{side}.json"
                begun = perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "eval.official", side, str(given), str(out)], capture_output=True, text=True
                )
                seconds[side].append(perf_counter() - begun)
                if done.returncode:
                    raise ValueError(f"{side} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
                scores[side] = json.loads(out.read_text())
    ours, theirs = scores["ours"], scores["official"]
    rows = [["", "ours", "official", "largest difference of a picture"]]
    for name, value in theirs["metrics"].items():
        apart = max(abs(a - b) for a, b in zip(ours["each"][name], theirs["each"][name], strict=True))
        rows.append([name, f"{ours['metrics'][name]:.8f}", f"{value:.8f}", f"{apart:.1e}"])
    times = {side: median(own) for side, own in seconds.items()}
    count = sum(len(references[i]) for i in wanted)
    print(f"{len(wanted)} pictures, {count} references; captions with other tokens: {_apart(ours, theirs)}")
    print(table(rows))
    print(f"seconds, median of {args.repeats}: ours {times['ours']:.2f}, official {times['official']:.2f}, "
          f"{times['official'] / times['ours']:.1f} times as long")  # fmt: skip


def _next_captions(split: CaptionSplit) -> dict[int, str]:
    captions = split.references
    image_ids = list(captions)
    return {image_id: captions[image_ids[n - len(image_ids) + 1]][0] for n, image_id in enumerate(image_ids)}


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> int:
    return sum(a != b for a, b in zip(ours["tokens"], theirs["tokens"], strict=True))


def score_ours(given: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics, each picture's, and all tokens, by eval.metrics."""
    from eval.metrics import all_scores, tokenized

    captions = tokenized({e["image_id"]: e["caption"] for e in given}, {e["image_id"]: e["references"] for e in given})
    scores = all_scores(captions.corpus)
    texts = [" ".join(tokens) for tokens in captions.corpus.tokens]
    return {
        "metrics": {name: found.value for name, found in scores.items()},
        "each": {name: found.per_picture_N.tolist() for name, found in scores.items()},
        "tokens": texts,
    }


def score_officially(given: list[dict[str, Any]]) -> dict[str, Any]:
    """The same by pycocoevalcap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    entries = sorted(given, key=lambda entry: entry["image_id"])
    candidates = PTBTokenizer().tokenize({e["image_id"]: [{"caption": e["caption"]}] for e in entries})
    references = PTBTokenizer().tokenize({e["image_id"]: [{"caption": c} for c in e["references"]] for e in entries})
    metrics: dict[str, float] = {}
    each: dict[str, list[float]] = {}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        totals, parts = Bleu(4).compute_score(references, candidates)
        for n in range(4):
            metrics[f"Bleu_{n + 1}"], each[f"Bleu_{n + 1}"] = totals[n], list(parts[n])
        for name, scorer in (("ROUGE_L", Rouge()), ("CIDEr", Cider())):
            total, part = scorer.compute_score(references, candidates)
            metrics[name], each[name] = float(total), [float(x) for x in part]
    tokens = [own[0] for own in candidates.values()] + [text for own in references.values() for text in own]
    return {"metrics": metrics, "each": each, "tokens": tokens}


if __name__ == "__main__":
    side, given_path, out_path = sys.argv[1:]
    scored = (score_ours if side == "ours" else score_officially)(json.loads(Path(given_path).read_text()))
    Path(out_path).write_text(json.dumps(scored))
