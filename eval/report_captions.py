"""The captions' part of a report: scores, the curve over k, and pictures with their captions and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.report_chart import chart
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
    metric_title,
    model_name,
    percent,
    provenance,
    say,
    score_row,
    scrolling,
    sort_heading,
    x100,
)

HEADLINES = ("CIDEr", "Bleu_4")
"""The metrics of the summary and of the curve."""
PROVENANCE = {
    "bundle": "Bundle", "bundle_version": "Bundle hash", "precision": "Precision", "beam_size": "Beam size k",
    "length_rule": "Length rule", "length_power": "Length power", "max_words": "Longest caption, in words",
    "implementation": "Implementation", "tokenizer": "Tokeniser", "document_frequencies": "Document frequencies",
    "references": "References", "intervals_are": "Intervals", "annotations": "Annotations", "split": "Split",
    "pictures": "Pictures scored", "missing": "Without a result", "errors": "Could not be read",
    "results": "Results file", "commit": "Commit",
}  # fmt: skip
ESSENTIAL = ("bundle_version", "beam_size", "length_rule", "implementation", "tokenizer", "split", "commit")
"""Without these a score means little, so their absence is shown."""
FACTS = {"language": "Language", "hallucination": "Hallucination", "bias": "Bias"}
ERRORS = {"image_id": "Image", "file": "File", "reason": "Why"}


@dataclass(frozen=True)
class MappedWord:
    """A word of a caption and where the model looked for it."""

    text: str
    """As it stands in the caption, with the space before it."""
    probability: float
    shade: str
    """Data URI of a picture to lay over the photo: opaque where the model did not look."""


@dataclass(frozen=True)
class Example:
    """One picture of the report."""

    image_id: int
    file: str
    caption: str
    references: tuple[str, ...]
    scores: Mapping[str, float]
    photo: str | None
    """Data URI; None if it could not be read."""
    size: tuple[int, int]
    """Width and height of the photo in pixels."""
    words: tuple[MappedWord, ...]
    """Of the caption; empty without attention."""
    remark: str | None = None
    """Why there are no maps, if others have them."""


@dataclass(frozen=True)
class Group:
    """Examples chosen by one rule."""

    title: str
    rule: str
    examples: tuple[Example, ...]


def caption_sections(
    scores: Mapping[str, Any], groups: Sequence[Group], errors: Sequence[Mapping[str, Any]]
) -> dict[str, Html | None]:
    """By heading. scores as in scores.json, errors as in errors.json; what is not there is None."""
    return {
        "Scores": _scores(scores),
        "Beam size": _curve(scores),
        **{group.title: _group(group) for group in groups if group.examples},
        **{heading: fact_tree(scores.get(key)) for key, heading in FACTS.items()},
        "Left out": left_out(errors, ERRORS, "Pictures that could not be read and have no caption"),
        "Provenance": provenance(scores, PROVENANCE, ESSENTIAL),
    }


def caption_summary(scores: Mapping[str, Any]) -> str:
    """The result in a sentence."""
    metrics, intervals = member(scores, "metrics"), member(scores, "intervals")
    human = member(member(member(scores, "rows"), "human"), "metrics")
    reached, people = [], []
    for name in HEADLINES:
        if name in metrics:
            interval = f" (95\u00a0% interval {between(intervals[name])})" if name in intervals else ""
            reached.append(f"{metric_title(name)} {x100(metrics[name])}{interval}")
            people += [f"{metric_title(name)} {x100(human[name])}"] if name in human else []
    if not reached:
        return "Nothing is scored."
    where = f"{say(scores.get('pictures', 'the'))} pictures of {say(scores.get('annotations') or 'the split')}"
    contrast = f" People, scored against each other, reach {' and '.join(people)}." if people else ""
    return f"On {where}, {model_name(scores)} reaches {' and '.join(reached)}.{contrast}"


# Scores


def _scores(scores: Mapping[str, Any]) -> Html | None:
    metrics = member(scores, "metrics")
    if not metrics:
        return None
    k, precision = scores.get("beam_size"), scores.get("precision")
    about = ", ".join([*([f"k = {say(k)}"] if k else []), *([say(precision)] if precision else [])])
    own = {"metrics": metrics, "intervals": scores.get("intervals"), "about": about}
    head = [sort_heading("Captions by"), *(sort_heading(metric_title(name), "number") for name in metrics)]
    body = [
        score_row(model_name(scores), own, metrics, "own"),
        *(score_row(capital(label), row, metrics) for label, row in member(scores, "rows").items()),
    ]
    intervals = ", with the 95 % interval of a bootstrap over pictures" if scores.get("intervals") else ""
    skipped = [
        element("p", element("b", metric_title(name)), f" is not here: {say(why)}", class_="note")
        for name, why in member(scores, "skipped").items()
    ]
    note = element("p", f"Scores × 100{intervals}. A click on a heading sorts.", class_="note")
    return together(scrolling("Scores", head, body, "sortable"), note, *skipped)


# The curve


def _curve(scores: Mapping[str, Any]) -> Html | None:
    rows = scores.get("curve")
    charts = []
    for name in HEADLINES:
        points = {
            row["beam_size"]: 100 * row["metrics"][name]
            for row in (rows if isinstance(rows, list) else [])
            if is_number(member(row, "metrics").get(name)) and is_number(row.get("beam_size"))
        }
        if len(points) > 1:
            charts.append(element("figure", chart(metric_title(name), sorted(points.items()))))
    if not charts:
        return None
    note = element("p", "The axes do not start at zero.", class_="note")
    return together(element("div", *charts, class_="charts"), note)


def _group(group: Group) -> Html:
    hint = " Point at a word, or walk along the words with the arrow keys, to see where the model looked."
    mapped = any(example.words for example in group.examples)
    note = element("p", group.rule, hint if mapped else None, class_="note")
    return together(note, element("div", *map(_card, group.examples), class_="cards"))


def _card(example: Example) -> Html:
    scores = fact_list("own-scores", ((metric_title(name), x100(value)) for name, value in example.scores.items()))
    alt = f"Photo; a person wrote: {example.references[0]}" if example.references else "Photo that nobody described"
    return element(
        "article",
        framed(example.photo, example.size, alt, example.words[0].shade if example.words else None),
        element("p", together(*_words(example)) or example.caption or "(no words)", class_="caption"),
        scores if example.scores else None,
        element("ul", *(element("li", text) for text in example.references), class_="references"),
        element("p", f"{example.file}, image {example.image_id}", class_="source"),
        element("p", example.remark, class_="source") if example.remark else None,
    )


def _words(example: Example) -> list[Html]:
    """The caption as buttons; the script makes one stop of the tab key of them."""
    buttons = []
    for n, word in enumerate(example.words):
        text = word.text.strip()
        tabindex = None if n == 0 else -1
        data = {"data_shade": word.shade, "data_told": f"{text}  {percent(word.probability)}"}
        button = element("button", text, type="button", class_="word", tabindex=tabindex, **data)
        buttons.append(together(" " if word.text.startswith(" ") else None, button))
    return buttons
