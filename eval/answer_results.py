"""Files of answers: results for the evaluation servers, and questions.json, which says more of each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.atomic import write_json
from eval.answer_scoring import evaluate_answers, evaluate_ranking
from eval.fields import read_json
from eval.questions import Question, QuestionSplit

ANSWERS, CHOICES, RANKS = "answers.json", "multiple_choice.json", "ranks.json"


@dataclass(frozen=True)
class Answers:
    """What became of the questions of a split."""

    results: dict[int, dict[str, Any]]
    """As in the journal, by question id."""
    errors: list[dict[str, Any]]
    """In the order of the questions."""


def load_answers(path: Path) -> dict[int, str]:
    """Answers by question id; ValueError names the file and the entry that is wrong."""
    document = read_json(path)
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


def write_results(
    out: Path, split: QuestionSplit, found: Answers, open_ended: bool, dialogs: bool, blind: Mapping[int, str] | None
) -> dict[str, Any]:
    """The results for evaluation servers and questions.json; returns the scores."""
    each = {question.question_id: found.results.get(question.question_id, {}) for question in split.questions}
    details = [_detail(question, each[question.question_id]) for question in split.questions]
    by_id = {detail["question_id"]: detail for detail in details}
    scores: dict[str, Any] = {"metrics": {}}
    if open_ended:
        answers = {n: detail["answer"] for n, detail in by_id.items()}
        write_json(out / ANSWERS, [{"question_id": n, "answer": answer} for n, answer in answers.items()])
        if split.annotations:
            scores, per_question = evaluate_answers(answers, split.annotations, blind)
            for n, accuracy in per_question.items():
                by_id[n]["accuracy"] = accuracy
        scores["results"] = ANSWERS
    if dialogs:
        probabilities = {n: result["choices"] for n, result in each.items() if result}
        write_json(out / RANKS, [_ranks(question, probabilities) for question in split.questions])
        scores, ranks = evaluate_ranking(probabilities, split.questions)
        for n, rank in ranks.items():
            by_id[n]["rank"] = rank
        scores["results"] = RANKS
    elif chosen := {n: detail["choice"] for n, detail in by_id.items() if "choice" in detail}:
        write_json(out / CHOICES, [{"question_id": n, "answer": choice} for n, choice in chosen.items()])
        if split.annotations:
            own = [annotation for annotation in split.annotations if annotation["question_id"] in chosen]
            of_choices, _ = evaluate_answers(chosen, own)
            scores.setdefault("implementation", of_choices["implementation"])
            scores["metrics"]["multiple_choice_accuracy"] = of_choices["metrics"]["accuracy"]
            scores["multiple_choice"] = {**of_choices, "results": CHOICES}
    write_json(out / "questions.json", details)
    return scores


def _detail(question: Question, result: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of questions.json."""
    top: Sequence[Mapping[str, Any]] = result.get("answers", [])
    detail: dict[str, Any] = {
        "question_id": question.question_id,
        "answer": top[0]["text"] if top else "",
        "probability": top[0]["probability"] if top else None,
        "top": top,
        "unknown_words": result.get("unknown_words", []),
    }
    if question.choices:
        choices = result.get("choices")
        detail["choice"] = question.choices[int(np.argmax(choices))] if choices else ""
    return detail


def _ranks(question: Question, probabilities: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """An entry of the VisDial challenge's results: the rank of each candidate, 1 for the most probable."""
    own = probabilities.get(question.question_id, [0.0] * len(question.choices))
    ranks = np.empty(len(own), int)
    ranks[np.argsort(-np.asarray(own), kind="stable")] = np.arange(len(own)) + 1
    return {"image_id": question.image_id, "round_id": len(question.history) + 1, "ranks": ranks.tolist()}
