"""The report as one page of HTML: styles, script and pictures inside it, nothing fetched.

Only Html, which element() makes, goes into the page as it is; every other string is escaped. A policy in the page's
head forbids it to load anything or to run any script but its own.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from eval.report_html import Html, element

CSS = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")


def page(title: str, summary: str, sections: Mapping[str, Html | None]) -> str:
    """The whole document: sections by their heading, those that are None left out."""
    shown = {heading: body for heading, body in sections.items() if body}
    content = element(
        "main",
        element("header", element("h1", title), element("p", summary, class_="summary")),
        element("nav", *(element("a", h, href=f"#{_anchor(h)}") for h in shown), aria_label="Sections"),
        *(
            element("section", element("h2", heading, id=_anchor(heading)), body, aria_labelledby=_anchor(heading))
            for heading, body in shown.items()
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
