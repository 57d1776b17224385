"""Everything that is said of one set of answers: accuracy by the official rules, or the ranks of candidates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.bias import question_only_gap
from eval.bootstrap import RESAMPLES, differences, intervals
from eval.metrics import ranking as measures
from eval.metrics.scores import Floats, Scores, mean_of
from eval.metrics.vqa import VqaScores, vqa_accuracy
from eval.questions import Question
from eval.results import table

IMPLEMENTATION = "eval.metrics.vqa, the rules of the official evaluation code for VQA v2"
RANKING = "eval.metrics.ranking, VisDial's measures; of equal scores the right one comes last"
BIAS = "What the answers gain over those of a model that read the questions and saw no picture."
QUESTION_ONLY = "question only"

Annotations = Sequence[Mapping[str, Any]]


def evaluate_answers(
    answers: Mapping[int, str], annotations: Annotations, blind: Mapping[int, str] | None = None
) -> tuple[dict[str, Any], dict[int, float]]:
    """What scores.json says of answers by question id, and the accuracy of each question.

    blind are the answers of a model that saw no picture. Raises as vqa_accuracy does.
    """
    found = vqa_accuracy(answers, annotations)
    document = {**_scores_of(found, annotations), "intervals_are": _INTERVALS, "implementation": IMPLEMENTATION}
    if blind is not None:
        other = vqa_accuracy(blind, annotations)
        document["rows"] = {QUESTION_ONLY: _scores_of(other, annotations)}
        own, blinds = ({"gap": mean_of(np.array(list(each.per_question.values())))} for each in (found, other))
        apart = {name: value for name, value in vars(differences(own, blinds)["gap"]).items() if name != "difference"}
        gap = question_only_gap(found.overall, other.overall).as_dict()
        document["bias"] = {"about": BIAS, **gap, **apart}
    return document, found.per_question


def evaluate_ranking(
    probabilities: Mapping[int, Sequence[float]], questions: Sequence[Question]
) -> tuple[dict[str, Any], dict[int, int]]:
    """What scores.json says of the probabilities of each question's choices, and the rank of its right one.

    MRR, recalls and the mean rank are over the questions whose right choice is known, NDCG over those whose choices
    have a relevance; a question without probabilities ranks last.
    """
    known = [question for question in questions if question.correct_choice is not None]
    rated = [question for question in questions if any(question.relevance)]
    scores: dict[str, Scores] = {}
    ranks: dict[int, int] = {}
    if known:
        table_NO = _table(probabilities, known)
        correct_N = np.array([question.correct_choice for question in known])
        scores |= measures.ranking(table_NO, correct_N)
        numbers = [question.question_id for question in known]
        ranks = dict(zip(numbers, map(int, measures.ranks(table_NO, correct_N)), strict=True))
    if rated:
        table_NO = _table(probabilities, rated)
        relevance_NO = np.zeros_like(table_NO)
        for n, question in enumerate(rated):
            relevance_NO[n, : len(question.relevance)] = question.relevance
        scores["NDCG"] = measures.ndcg(table_NO, relevance_NO)
    document: dict[str, Any] = {"metrics": {name: each.value for name, each in scores.items()}}
    if scores:
        document["intervals"] = {name: list(intervals({name: each})[name]) for name, each in scores.items()}
        document |= {"intervals_are": _INTERVALS, "implementation": RANKING}
        document["ranked"] = {"questions": len(known), "with_relevance": len(rated)}
    return document, ranks


def answers_table(scores: Mapping[str, Any]) -> str:
    """A scores.json of answers for the terminal: accuracy in percent as the official code rounds it, and what else."""
    if "official" not in scores:
        ends = scores.get("intervals", {})
        cells = [["", "", "95 % interval"]]
        for name, value in scores["metrics"].items():
            by = 1 if name == "mean_rank" else 100
            low, high = ends[name]
            cells.append([name, f"{by * value:.2f}", f"{by * low:.2f}-{by * high:.2f}"])
        return table(cells)
    types = list(scores["per_answer_type"])
    each = [scores["per_answer_type"][kind]["interval"] for kind in types]
    between = [f"{100 * low:.1f}-{100 * high:.1f}" for low, high in [scores["intervals"]["accuracy"], *each]]
    rows = [["", "all", *types], _row("", scores["official"], types), ["  95 % interval", *between]]
    rows += [_row(name, row["official"], types) for name, row in scores.get("rows", {}).items()]
    if choice := scores.get("multiple_choice"):
        rows.append(_row("multiple choice", choice["official"], types))
    return table(rows)


_INTERVALS = f"95 %, bootstrap over questions, {RESAMPLES} resamples"


def _scores_of(found: VqaScores, annotations: Annotations) -> dict[str, Any]:
    accuracies = list(found.per_question.values())
    return {
        "metrics": {"accuracy": found.overall},
        "intervals": {"accuracy": _interval(accuracies)},
        **{f"per_{kind}": _by_type(kind, found, annotations) for kind in ("answer_type", "question_type")},
        "official": found.official,
    }


def _by_type(kind: str, found: VqaScores, annotations: Annotations) -> dict[str, dict[str, Any]]:
    by_type: dict[str, list[float]] = defaultdict(list)
    for annotation in annotations:
        by_type[annotation[kind]].append(found.per_question[annotation["question_id"]])
    return {
        name: {"accuracy": float(np.mean(own)), "interval": _interval(own), "questions": len(own)}
        for name, own in by_type.items()
    }


def _interval(accuracies: Sequence[float]) -> list[float]:
    return list(intervals({"accuracy": mean_of(np.array(accuracies))})["accuracy"])


def _table(probabilities: Mapping[int, Sequence[float]], questions: Sequence[Question]) -> Floats:
    """[N, O]: without probabilities all choices are alike; where a question has fewer choices, -1 is below them all."""
    widest = max(len(question.choices) for question in questions)
    table_NO = np.full((len(questions), widest), -1.0)
    for n, question in enumerate(questions):
        table_NO[n, : len(question.choices)] = probabilities.get(question.question_id, 0.0)
    return table_NO


def _row(name: str, official: Mapping[str, Any], types: Sequence[str]) -> list[str]:
    each = (official["perAnswerType"].get(kind) for kind in types)
    return [name, f"{official['overall']:.2f}", *("" if value is None else f"{value:.2f}" for value in each)]
