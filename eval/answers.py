"""Score answers to questions about pictures as the official VQA code does.

    python -m eval answers --annotations v2_mscoco_val2014_annotations.json --results answers.json --out scores.json

Results are those of the evaluation server: [{"question_id", "answer"}, ...]. The row of a model that never saw the
pictures (--question-only) belongs beside every VQA number.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from captioner.atomic import write_json
from eval.bias import question_only_gap
from eval.bootstrap import RESAMPLES, differences, intervals
from eval.metrics.scores import mean_of
from eval.metrics.vqa import VqaScores, vqa_accuracy
from eval.results import commit, table

IMPLEMENTATION = "eval.metrics.vqa, the rules of the official evaluation code for VQA v2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval answers`."""
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="people's answers in the VQA layout")
    add("--results", type=Path, required=True, help='[{"question_id", "answer"}, ...]')
    add("--question-only", type=Path, metavar="RESULTS", help="answers of a model that saw no picture, for its row")
    add("--out", type=Path, help="write the scores to this JSON file, and questions.json beside it")


def load_answers(path: Path) -> dict[int, str]:
    """Answers by question id; ValueError names the file and the entry that is wrong."""
    document = _read(path)
    if not isinstance(document, list):
        raise ValueError(f'{path}: must be a list of {{"question_id", "answer"}}, got {type(document).__name__}')
    answers: dict[int, str] = {}
    for n, entry in enumerate(document):
        if not isinstance(entry, dict) or type(entry.get("question_id")) is not int:
            raise ValueError(f"{path}: [{n}] must be an object with an integer question_id, got {entry!r:.60}")
        if not isinstance(entry.get("answer"), str):
            raise ValueError(f"{path}: [{n}].answer must be a string, got {entry.get('answer')!r:.60}")
        if entry["question_id"] in answers:
            raise ValueError(f"{path}: [{n}].question_id {entry['question_id']} is in the file twice")
        answers[entry["question_id"]] = entry["answer"]
    return answers


def main(args: argparse.Namespace) -> None:
    """Score, print, write."""
    document = _read(args.annotations)
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        raise ValueError(f"{args.annotations}: must hold a JSON object with a list of annotations")
    found = _score(args.results, document["annotations"], args.annotations)
    own = {"accuracy": mean_of(np.array(list(found.per_question.values())))}
    scores: dict[str, Any] = {
        **found.as_dict(),
        "interval": list(intervals(own)["accuracy"]),
        "interval_is": f"95 %, bootstrap over questions, {RESAMPLES} resamples",
        "questions": len(found.per_question),
        "implementation": IMPLEMENTATION,
        "annotations": args.annotations.name,
        "results": args.results.name,
        "commit": commit(),
    }
    rows = [["", "all", *found.per_answer_type], _row("", found, found.per_answer_type)]
    low, high = scores["interval"]
    rows.append(["  95 % interval", f"{100 * low:.1f}-{100 * high:.1f}", *[""] * len(found.per_answer_type)])
    if args.question_only:
        blind = _score(args.question_only, document["annotations"], args.annotations)
        other = {"accuracy": mean_of(np.array(list(blind.per_question.values())))}
        gap = question_only_gap(found.overall, blind.overall).as_dict()
        scores["question_only"] = {**blind.as_dict(), "results": args.question_only.name}
        scores["bias"] = {
            **gap,
            **{k: v for k, v in vars(differences(own, other)["accuracy"]).items() if k != "difference"},
        }
        rows.append(_row("question only", blind, found.per_answer_type))
    print(table(rows))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, scores)
        each = [{"question_id": i, "accuracy": accuracy} for i, accuracy in found.per_question.items()]
        write_json(args.out.with_name("questions.json"), each)


def _row(name: str, scores: VqaScores, types: Mapping[str, float]) -> list[str]:
    each = (scores.official["perAnswerType"].get(kind) for kind in types)
    return [name, f"{scores.official['overall']:.2f}", *("" if value is None else f"{value:.2f}" for value in each)]


def _score(results: Path, annotations: list[Any], where: Path) -> VqaScores:
    try:
        return vqa_accuracy(load_answers(results), annotations)
    except ValueError as e:
        raise ValueError(f"{results} against {where}: {e}") from e


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ValueError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise ValueError(f"{path}: not JSON: {e}") from e
