"""HTML that is made and never pasted: whatever is not Html is escaped."""

from __future__ import annotations

from html import escape


class Html(str):
    """A string that is markup already."""


def element(tag: str, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element; None leaves a child or an attribute out. class_ is class, aria_label is aria-label."""
    opening = f"<{tag}"
    for name, value in attributes.items():
        if value is not None and value is not False:
            name = name.rstrip("_").replace("_", "-")
            opening += f" {name}" if value is True else f' {name}="{escape(str(value))}"'
    closing = "" if tag in ("img", "meta") else f"</{tag}>"
    return Html(f"{opening}>{together(*children)}{closing}")


def together(*children: str | None) -> Html:
    """Markup side by side."""
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in children if c is not None))
