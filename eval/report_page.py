"""The report of one evaluation as one page of HTML: styles, script and pictures inside it, nothing fetched.

Only Html, which element() makes, goes into the page as it is; every other string is escaped. A policy in the page's
head forbids it to load anything or to run any script but its own.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from eval.report_chart import chart
from eval.report_html import Html, element, together

CSS = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")

NAMES = {f"Bleu_{n}": f"BLEU-{n}" for n in range(1, 5)} | {"ROUGE_L": "ROUGE-L", "CIDEr_D": "CIDEr-D"}
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
REMARKS = ("about", "note")
"""Keys whose value is a sentence about the facts beside it."""
MOST_ERRORS = 100


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


def page(scores: Mapping[str, Any], groups: Sequence[Group], errors: Sequence[Mapping[str, Any]]) -> str:
    """The whole document. scores as in scores.json, errors as in errors.json; what is not there is left out."""
    title = f"Captions by {_name(scores)}"
    sections = {
        "Scores": _scores(scores),
        "Beam size": _curve(scores),
        **{group.title: _group(group) for group in groups if group.examples},
        **{heading: _facts(scores.get(key)) for key, heading in FACTS.items()},
        "Left out": _errors(errors),
        "Provenance": _provenance(scores),
    }
    sections = {heading: body for heading, body in sections.items() if body}
    content = element(
        "main",
        element("header", element("h1", title), element("p", _summary(scores), class_="summary")),
        element("nav", *(element("a", h, href=f"#{_anchor(h)}") for h in sections), aria_label="Sections"),
        *(
            element("section", element("h2", heading, id=_anchor(heading)), body, aria_labelledby=_anchor(heading))
            for heading, body in sections.items()
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(CSS)),
    )
    whole = element("html", head, element("body", content, element("script", Html(SCRIPT))), lang="en")
    return f"<!doctype html>\n{whole}\n".encode(errors="replace").decode()  # JSON can hold half a surrogate pair


def _policy() -> str:
    css, script = (b64encode(sha256(text.encode()).digest()).decode() for text in (CSS, SCRIPT))
    own = f"style-src 'sha256-{css}'; script-src 'sha256-{script}'"
    return f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _name(scores: Mapping[str, Any]) -> str:
    """Whose scores these are."""
    return _text(scores.get("bundle") or scores.get("results") or "an unnamed model")


def _summary(scores: Mapping[str, Any]) -> str:
    metrics, intervals = _object(scores, "metrics"), _object(scores, "intervals")
    human = _object(_object(_object(scores, "rows"), "human"), "metrics")
    reached, people = [], []
    for name in HEADLINES:
        if name in metrics:
            interval = f" (95\u00a0% interval {_interval(intervals[name])})" if name in intervals else ""
            reached.append(f"{metric_title(name)} {_x100(metrics[name])}{interval}")
            people += [f"{metric_title(name)} {_x100(human[name])}"] if name in human else []
    if not reached:
        return "Nothing is scored."
    where = f"{_text(scores.get('pictures', 'the'))} pictures of {_text(scores.get('annotations') or 'the split')}"
    contrast = f" People, scored against each other, reach {' and '.join(people)}." if people else ""
    return f"On {where}, {_name(scores)} reaches {' and '.join(reached)}.{contrast}"


# Scores


def _scores(scores: Mapping[str, Any]) -> Html | None:
    metrics = _object(scores, "metrics")
    if not metrics:
        return None
    k, precision = scores.get("beam_size"), scores.get("precision")
    about = ", ".join([*([f"k = {_text(k)}"] if k else []), *([_text(precision)] if precision else [])])
    own = {"metrics": metrics, "intervals": scores.get("intervals"), "about": about}
    head = [_sorter("Captions by"), *(_sorter(metric_title(name), "number") for name in metrics)]
    body = [
        _score_row(_name(scores), own, metrics, "own"),
        *(_score_row(_upper(label), row, metrics) for label, row in _object(scores, "rows").items()),
    ]
    intervals = ", with the 95 % interval of a bootstrap over pictures" if scores.get("intervals") else ""
    skipped = [
        element("p", element("b", metric_title(name)), f" is not here: {_text(why)}", class_="note")
        for name, why in _object(scores, "skipped").items()
    ]
    note = element("p", f"Scores × 100{intervals}. A click on a heading sorts.", class_="note")
    return together(_table("Scores", head, body, "sortable"), note, *skipped)


def _sorter(heading: str, kind: str | None = None) -> Html:
    return element("th", element("button", heading, type="button"), scope="col", aria_sort="none", class_=kind)


def _score_row(label: str, row: Any, names: Iterable[str], kind: str | None = None) -> Html:
    metrics, intervals = _object(row, "metrics"), _object(row, "intervals")
    about = row.get("about") if isinstance(row, Mapping) else None
    cells = [element("th", label, element("small", _text(about)) if about else None, scope="row", data_value=label)]
    for name in names:
        value = metrics.get(name)
        interval = element("small", _interval(intervals[name])) if name in intervals else None
        order = repr(value) if _is_number(value) else None
        cells.append(element("td", _x100(value), interval, class_="number", data_value=order))
    return element("tr", *cells, class_=kind)


def _table(label: str, head: Iterable[Html], body: Iterable[Html], kind: str | None = None) -> Html:
    """A table that scrolls by itself where it is too wide; by keyboard too, hence the tabindex."""
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_=kind)
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)


# The curve


def _curve(scores: Mapping[str, Any]) -> Html | None:
    rows = scores.get("curve")
    charts = []
    for name in HEADLINES:
        points = {
            row["beam_size"]: 100 * row["metrics"][name]
            for row in (rows if isinstance(rows, list) else [])
            if _is_number(_object(row, "metrics").get(name)) and _is_number(row.get("beam_size"))
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
    scores = _pairs("own-scores", ((metric_title(name), _x100(value)) for name, value in example.scores.items()))
    return element(
        "article",
        _framed(example),
        element("p", together(*_words(example)) or example.caption or "(no words)", class_="caption"),
        scores if example.scores else None,
        element("ul", *(element("li", text) for text in example.references), class_="references"),
        element("p", f"{example.file}, image {example.image_id}", class_="source"),
        element("p", example.remark, class_="source") if example.remark else None,
    )


def _framed(example: Example) -> Html:
    """The photo, and over it, to be shown by the script, a word's shade and its probability."""
    if not example.photo:
        return element("div", element("p", "This photo could not be read.", class_="source"), class_="well")
    alt = f"Photo; a person wrote: {example.references[0]}" if example.references else "Photo that nobody described"
    width, height = example.size
    layers = [element("img", src=example.photo, alt=alt, width=width, height=height)]
    if example.words:
        layers.append(element("img", src=example.words[0].shade, alt="", class_="shade", hidden=True))
        layers.append(element("span", class_="told", hidden=True))
    return element("div", element("div", *layers, class_="frame"), class_="well")


def _words(example: Example) -> list[Html]:
    """The caption as buttons; the script makes one stop of the tab key of them."""
    buttons = []
    for n, word in enumerate(example.words):
        text = word.text.strip()
        told = f"{text}  {100 * word.probability:.0f} %" if word.probability >= 0.01 else f"{text}  < 1 %"
        tabindex = None if n == 0 else -1
        data = {"data_shade": word.shade, "data_told": told}
        button = element("button", text, type="button", class_="word", tabindex=tabindex, **data)
        buttons.append(together(" " if word.text.startswith(" ") else None, button))
    return buttons


# Facts of any shape, what was left out, and where the numbers come from


def _facts(facts: Any) -> Html | None:
    """Numbers as a list, an object of objects as a table, deeper ones under headings of their own."""
    if isinstance(facts, list):
        facts = dict(enumerate(facts, 1))
    if not isinstance(facts, Mapping):
        return element("p", _text(facts)) if facts else None
    remarks = [element("p", _text(facts[key])) for key in REMARKS if key in facts]
    deep = {key: value for key, value in facts.items() if isinstance(value, Mapping | list) and value}
    plain = [(_label(k), _text(v)) for k, v in facts.items() if not isinstance(v, Mapping | list) and k not in REMARKS]
    pairs = _pairs("facts", plain) if plain else None
    if len(deep) > 1 and all(_is_flat(row) for row in deep.values()):
        return together(*remarks, pairs, _matrix(deep))
    return together(*remarks, pairs, *(together(element("h3", _label(k)), _facts(v)) for k, v in deep.items()))


def _is_flat(row: Any) -> bool:
    return isinstance(row, Mapping) and not any(isinstance(value, Mapping | list) for value in row.values())


def _matrix(rows: Mapping[Any, Any]) -> Html:
    """A row for each key; rows may lack columns."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    head = [element("td"), *(element("th", _label(column), scope="col", class_="number") for column in columns)]
    body = []
    for key, row in rows.items():
        cells = (element("td", _text(row.get(column)), class_="number") for column in columns)
        body.append(element("tr", element("th", _label(key), scope="row"), *cells))
    return _table("Table", head, body)


def _errors(errors: Sequence[Mapping[str, Any]]) -> Html | None:
    if not errors:
        return None
    head = [element("th", name, scope="col") for name in ("Image", "File", "Why")]
    keys = ("image_id", "file", "reason")
    body = [element("tr", *(element("td", str(error.get(key, "–"))) for key in keys)) for error in errors[:MOST_ERRORS]]
    more = f" The first {MOST_ERRORS} are shown." if len(errors) > MOST_ERRORS else ""
    note = f"Pictures that could not be read and have no caption: {len(errors)}.{more}"
    return together(element("p", note, class_="note"), _table("Left out", head, body))


def _provenance(scores: Mapping[str, Any]) -> Html:
    others = [key for key, value in scores.items() if key not in PROVENANCE and not isinstance(value, Mapping | list)]
    pairs = []
    for key in (*PROVENANCE, *others):
        if key not in scores and key in ESSENTIAL:
            pairs.append((PROVENANCE[key], "not recorded"))
        elif key in scores:
            value = scores[key]
            if value is None:
                value = "the whole file" if key == "split" else "not known"
            text = str(value) if isinstance(value, float) else _text(value)  # a setting, to all its digits
            pairs.append((PROVENANCE.get(key, _label(key)), text))
    return _pairs("facts wide", pairs)


def _pairs(kind: str, pairs: Iterable[tuple[str, str]]) -> Html:
    return element("dl", *(element("div", element("dt", a), element("dd", b)) for a, b in pairs), class_=kind)


# Words and numbers


def _object(value: Any, key: str) -> Mapping[str, Any]:
    """value[key] if that is an object, else an empty one."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _x100(value: Any) -> str:
    return f"{100 * value:.1f}" if _is_number(value) else "–"


def _interval(pair: Any) -> str:
    low, high = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
    return f"{_x100(low)} to {_x100(high)}"


def _text(value: Any) -> str:
    """A value from a file for people: whole numbers in thousands, small fractions to three decimals."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}".replace("_", " ") for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if not _is_number(value):
        return "–" if value is None or isinstance(value, float) else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 10:
        return f"{value:,.1f}"
    return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1g}"


def metric_title(metric: str) -> str:
    """A metric's name as papers write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def _label(key: Any) -> str:
    return _upper(str(key).replace("_", " "))


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
