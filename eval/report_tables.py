"""What the sections of a report are built of: tables that sort, lists of facts, and numbers in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.report_html import Html, element, together

NAMES = {f"Bleu_{n}": f"BLEU-{n}" for n in range(1, 5)} | {"ROUGE_L": "ROUGE-L", "CIDEr_D": "CIDEr-D"}
REMARKS = ("about", "note")
"""Keys whose value is a sentence about the facts beside it."""
MOST_ERRORS = 100


def scrolling(label: str, head: Iterable[Html], body: Iterable[Html], kind: str | None = None) -> Html:
    """A table that scrolls by itself where it is too wide; by keyboard too, hence the tabindex."""
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_=kind)
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex=0)


def sort_heading(heading: str, kind: str | None = None) -> Html:
    """A heading that sorts by its column."""
    return element("th", element("button", heading, type="button"), scope="col", aria_sort="none", class_=kind)


def score_row(label: str, row: Any, names: Iterable[str], kind: str | None = None) -> Html:
    """A row of scores x 100 with their intervals; row has metrics, and perhaps intervals and about."""
    metrics, intervals = member(row, "metrics"), member(row, "intervals")
    about = row.get("about") if isinstance(row, Mapping) else None
    cells = [element("th", label, element("small", say(about)) if about else None, scope="row", data_value=label)]
    for name in names:
        value = metrics.get(name)
        interval = element("small", between(intervals[name])) if name in intervals else None
        order = repr(value) if is_number(value) else None
        cells.append(element("td", x100(value), interval, class_="number", data_value=order))
    return element("tr", *cells, class_=kind)


def fact_list(kind: str, pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and values beside each other; kind is the class."""
    return element("dl", *(element("div", element("dt", a), element("dd", b)) for a, b in pairs), class_=kind)


def fact_tree(facts: Any) -> Html | None:
    """Numbers as a list, an object of objects as a table, deeper ones under headings of their own."""
    if isinstance(facts, list):
        facts = dict(enumerate(facts, 1))
    if not isinstance(facts, Mapping):
        return element("p", say(facts)) if facts else None
    remarks = [element("p", say(facts[key])) for key in REMARKS if key in facts]
    deep = {key: value for key, value in facts.items() if isinstance(value, Mapping | list) and value}
    plain = [(titled(k), say(v)) for k, v in facts.items() if not isinstance(v, Mapping | list) and k not in REMARKS]
    pairs = fact_list("facts", plain) if plain else None
    if len(deep) > 1 and all(_is_flat(row) for row in deep.values()):
        return together(*remarks, pairs, _matrix(deep))
    return together(*remarks, pairs, *(together(element("h3", titled(k)), fact_tree(v)) for k, v in deep.items()))


def _is_flat(row: Any) -> bool:
    return isinstance(row, Mapping) and not any(isinstance(value, Mapping | list) for value in row.values())


def _matrix(rows: Mapping[Any, Any]) -> Html:
    """A row for each key; rows may lack columns."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    head = [element("td"), *(element("th", titled(column), scope="col", class_="number") for column in columns)]
    body = []
    for key, row in rows.items():
        cells = (element("td", say(row.get(column)), class_="number") for column in columns)
        body.append(element("tr", element("th", titled(key), scope="row"), *cells))
    return scrolling("Table", head, body)


def member(value: Any, key: str) -> Mapping[str, Any]:
    """value[key] if that is an object, else an empty one."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def is_number(value: Any) -> bool:
    """A finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def x100(value: Any) -> str:
    """A score in hundredths."""
    return f"{100 * value:.1f}" if is_number(value) else "–"


def between(pair: Any) -> str:
    """An interval of scores x 100."""
    low, high = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
    return f"{x100(low)} to {x100(high)}"


def say(value: Any) -> str:
    """A value from a file for people: whole numbers in thousands, small fractions to three decimals."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {say(item)}".replace("_", " ") for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(say, value))
    if not is_number(value):
        return "–" if value is None or isinstance(value, float) else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 10:
        return f"{value:,.1f}"
    return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1g}"


def metric_title(metric: str) -> str:
    """A metric's name as papers write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def titled(key: Any) -> str:
    """A key of a JSON file as a heading."""
    return capital(str(key).replace("_", " "))


def capital(text: str) -> str:
    """With a capital."""
    return text[:1].upper() + text[1:]


def left_out(errors: Sequence[Mapping[str, Any]], keys: Mapping[str, str], what: str) -> Html | None:
    """Rows of errors.json; keys are its columns with their headings, what says what they are about."""
    if not errors:
        return None
    head = [element("th", name, scope="col") for name in keys.values()]
    body = [element("tr", *(element("td", str(error.get(key, "–"))) for key in keys)) for error in errors[:MOST_ERRORS]]
    more = f" The first {MOST_ERRORS} are shown." if len(errors) > MOST_ERRORS else ""
    note = f"{what}: {len(errors):,}.{more}"
    return together(element("p", note, class_="note"), scrolling("Left out", head, body))


def provenance(scores: Mapping[str, Any], names: Mapping[str, str], essential: Sequence[str]) -> Html:
    """All plain values of a scores.json: those in names first; the absence of essential ones is shown."""
    others = [key for key, value in scores.items() if key not in names and not isinstance(value, Mapping | list)]
    pairs = []
    for key in (*names, *others):
        if key not in scores and key in essential:
            pairs.append((names[key], "not recorded"))
        elif key in scores:
            value = scores[key]
            if value is None:
                value = "the whole file" if key == "split" else "not known"
            text = str(value) if isinstance(value, float) else say(value)  # a setting, to all its digits
            pairs.append((names.get(key, titled(key)), text))
    return fact_list("facts wide", pairs)


def framed(photo: str | None, size: tuple[int, int], alt: str, shade: str | None) -> Html:
    """A photo, and over it, to be shown by the script, a shade and what is told of it; all are data URIs."""
    if not photo:
        return element("div", element("p", "This photo could not be read.", class_="source"), class_="well")
    layers = [element("img", src=photo, alt=alt, width=size[0], height=size[1])]
    if shade:
        layers.append(element("img", src=shade, alt="", class_="shade", hidden=True))
        layers.append(element("span", class_="told", hidden=True))
    return element("div", element("div", *layers, class_="frame"), class_="well")


def percent(probability: float) -> str:
    """In whole percents; a very small one is not nothing."""
    return f"{100 * probability:.0f} %" if probability >= 0.01 else "< 1 %"


def model_name(scores: Mapping[str, Any]) -> str:
    """Whose scores these are."""
    return say(scores.get("bundle") or scores.get("results") or "an unnamed model")
