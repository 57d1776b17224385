"""The answers' part of a report: accuracy by type beside the row that saw no picture, and questions with photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.answer_scoring import QUESTION_ONLY
from eval.metrics.vqa import answer_accuracy
from eval.report_html import Html, element, together
from eval.report_tables import (
    between,
    capital,
    fact_list,
    fact_tree,
    framed,
    is_number,
    left_out,
    member,
    model_name,
    percent,
    provenance,
    say,
    score_row,
    scrolling,
    sort_heading,
    x100,
)

PROVENANCE = {
    "bundle": "Bundle", "bundle_version": "Bundle hash", "answerer": "Answerer", "precision": "Precision",
    "implementation": "Implementation", "intervals_are": "Intervals", "annotations": "Annotations",
    "questions": "Questions", "pictures": "Pictures", "errors": "Not answered",
    "with_unknown_words": "Share with unknown words", "questions_per_second": "Questions a second",
    "results": "Results file", "commit": "Commit",
}  # fmt: skip
ESSENTIAL = ("bundle_version", "implementation", "annotations", "commit")
ERRORS = {"question_id": "Question", "image_id": "Image", "file": "File", "reason": "Why"}


@dataclass(frozen=True)
class QuestionExample:
    """One question of the report."""

    question_id: int
    text: str
    file: str
    answers: Sequence[tuple[str, float]]
    """The model's, the most probable first, with their probabilities."""
    people: Sequence[str]
    """Their answers; empty if nobody was asked."""
    accuracy: float | None
    unknown_words: Sequence[str]
    photo: str | None
    """Data URI; None if it could not be read."""
    size: tuple[int, int]
    """Width and height of the photo in pixels."""
    shade: str | None = None
    """Data URI of a picture to lay over the photo: opaque where the model did not look."""
    remark: str | None = None
    """Why there is no map, if others have one."""


@dataclass(frozen=True)
class QuestionGroup:
    """Questions chosen by one rule."""

    title: str
    rule: str
    examples: tuple[QuestionExample, ...]


def answer_sections(
    scores: Mapping[str, Any], groups: Sequence[QuestionGroup], errors: Sequence[Mapping[str, Any]]
) -> dict[str, Html | None]:
    """By heading. scores as in scores.json, errors as in errors.json; what is not there is None."""
    return {
        "Accuracy": _accuracy(scores) if "per_answer_type" in scores else _measures(scores),
        "Question types": _question_types(scores),
        **{group.title: _group(group) for group in groups if group.examples},
        "Question-only gap": fact_tree(scores.get("bias")),
        "Unanswered": left_out(errors, ERRORS, 'Questions that could not be asked; their answer is ""'),
        "Provenance of the answers": provenance(scores, PROVENANCE, ESSENTIAL),
    }


def answer_summary(scores: Mapping[str, Any]) -> str:
    """The result in a sentence."""
    metrics, intervals = member(scores, "metrics"), member(scores, "intervals")
    name = next(iter(metrics), None)
    if name is None:
        return "No answer is scored."
    percents = name != "mean_rank" and name in intervals
    interval = f" (95\u00a0% interval {between(intervals[name])})" if percents else ""
    where = f"{say(scores.get('questions', 'the'))} questions of {say(scores.get('annotations') or 'the split')}"
    value = f"{metrics[name]:.1f}" if name == "mean_rank" else x100(metrics[name])
    reached = f"On {where}, {model_name(scores)} reaches {_measure(name)} {value}{interval}."
    bias = member(scores, "bias")
    if not is_number(bias.get("gap")):
        return reached
    blind, gap = x100(bias.get("question_only")), bias["gap"]
    gained = f"looking adds {x100(gap)}" if gap >= 0 else f"looking loses {x100(-gap)}"
    return f"{reached} A model that sees no picture reaches {blind}: {gained}."


def _accuracy(scores: Mapping[str, Any]) -> Html:
    types = list(member(scores, "per_answer_type"))
    head = [sort_heading("Answers by"), *(sort_heading(capital(name), "number") for name in ("all", *types))]
    about = ", ".join(say(scores[key]) for key in ("answerer", "precision") if scores.get(key))
    body = [_row(model_name(scores), {**scores, "about": about or None}, types, "own")]
    body += [_row(capital(label), row, types) for label, row in member(scores, "rows").items()]
    if choice := member(scores, "multiple_choice"):
        body.append(_row("Multiple choice", {**choice, "about": "one of the choices that each question brings"}, types))
    note = "Accuracy × 100 by the official rules, with the 95 % interval of a bootstrap over questions."
    return together(scrolling("Accuracy", head, body, "sortable"), element("p", note, class_="note"))


def _row(label: str, row: Mapping[str, Any], types: Sequence[str], kind: str | None = None) -> Html:
    """The accuracy of all questions and of each answer type, as score_row wants them."""
    each = {name: member(member(row, "per_answer_type"), name) for name in types}
    metrics = {"all": member(row, "metrics").get("accuracy")} | {
        name: own.get("accuracy") for name, own in each.items()
    }
    ends = {"all": member(row, "intervals").get("accuracy")} | {name: own.get("interval") for name, own in each.items()}
    intervals = {name: pair for name, pair in ends.items() if pair}
    return score_row(label, {"metrics": metrics, "intervals": intervals, "about": row.get("about")}, metrics, kind)


def _measures(scores: Mapping[str, Any]) -> Html | None:
    """Of ranked candidates."""
    metrics, intervals = member(scores, "metrics"), member(scores, "intervals")
    if not metrics:
        return None
    pairs = []
    for name, value in metrics.items():
        by = 0.01 if name == "mean_rank" else 1.0
        ends = intervals.get(name)
        pairs.append((_measure(name), f"{x100(by * value)} ({between([by * end for end in ends]) if ends else '–'})"))
    return fact_list("facts", pairs)


def _question_types(scores: Mapping[str, Any]) -> Html | None:
    types = member(scores, "per_question_type")
    if not types:
        return None
    blind = member(member(member(scores, "rows"), QUESTION_ONLY), "per_question_type")
    names = ["Accuracy", *(["Question only", "Gap"] if blind else [])]
    head = [sort_heading("Question type"), sort_heading("Questions", "number")]
    head += [sort_heading(name, "number") for name in names]
    body = []
    for name, row in sorted(types.items(), key=lambda item: -item[1]["questions"]):
        cells = [
            element("th", name or "(none)", scope="row", data_value=name),
            element("td", say(row["questions"]), class_="number", data_value=row["questions"]),
            _value(row["accuracy"], row["interval"]),
        ]
        if blind:
            other = member(blind, name)
            known = is_number(other.get("accuracy"))
            gap = row["accuracy"] - other["accuracy"] if known else None
            cells += [_value(other.get("accuracy"), other.get("interval")), _value(gap)]
        body.append(element("tr", *cells))
    return scrolling("Question types", head, body, "sortable")


def _value(value: Any, interval: Any = None) -> Html:
    order = repr(value) if is_number(value) else None
    small = element("small", between(interval)) if interval else None
    return element("td", x100(value), small, class_="number", data_value=order)


def _group(group: QuestionGroup) -> Html:
    hint = " Point at a question to see where the model looked." if any(e.shade for e in group.examples) else None
    people = " A tick marks what people said." if any(e.people for e in group.examples) else None
    note = element("p", group.rule, hint, people, class_="note")
    return together(note, element("div", *map(_card, group.examples), class_="cards"))


def _card(example: QuestionExample) -> Html:
    question: str = example.text or "(no words)"
    if example.shade and example.answers:
        told = f"{example.answers[0][0]}  {percent(example.answers[0][1])}"
        data = {"data_shade": example.shade, "data_told": told}
        question = element("button", question, type="button", class_="word", **data)
    people = Counter(example.people).most_common()
    said = [f"{answer} × {count}" if count > 1 else answer for answer, count in people]
    unknown = f"Unknown words: {', '.join(example.unknown_words)}" if example.unknown_words else None
    accuracy = fact_list("own-scores", [("Accuracy", x100(example.accuracy))]) if is_number(example.accuracy) else None
    return element(
        "article",
        framed(example.photo, example.size, f"Photo; asked: {example.text}", example.shade),
        element("p", question, class_="caption"),
        element("ol", *(_answer(*answer, example.people) for answer in example.answers), class_="answers"),
        element("p", "People: ", element("b", ", ".join(said)), class_="people") if said else None,
        accuracy,
        element("p", unknown, class_="source") if unknown else None,
        element("p", f"{example.file}, question {example.question_id}", class_="source"),
        element("p", example.remark, class_="source") if example.remark else None,
    )


def _answer(text: str, probability: float, people: Sequence[str]) -> Html:
    """A bar; an answer with credit, by the official rules, has a tick."""
    right = bool(people) and answer_accuracy(text, people) > 0
    bar = element("rect", width=round(100 * probability, 2), height=1)
    tick = element("span", " ✓", aria_label="as people said", role="img") if right else None
    return element(
        "li",
        element("span", text, tick, class_="name"),
        element("svg", bar, viewBox="0 0 100 1", preserveAspectRatio="none", aria_hidden="true", class_="bar"),
        element("span", percent(probability), class_="percent"),
        class_="right" if right else None,
    )


def _measure(name: str) -> str:
    return "accuracy" if name == "accuracy" else name.replace("_", " ")
