"""Questions are checked before any work is done for them."""

from __future__ import annotations

import pytest

from captioner.query import BadQuestion, Query


@pytest.mark.parametrize("text", ["what?", "Ist das ein Hund?", "这是什么", "🐶🐱 ?", "ما هذا؟", "x", "what is 2 + 2"])
def test_questions_in_any_script_are_taken(text):
    assert Query(text).text == text


@pytest.mark.parametrize(
    ("values", "reason", "field"),
    [
        ({"text": ""}, "EMPTY_QUESTION", "question"),
        ({"text": "  ?!, ... "}, "EMPTY_QUESTION", "question"),
        ({"text": "why " * 51}, "QUESTION_TOO_LONG", "question"),
        ({"text": "why " * 500}, "QUESTION_TOO_LONG", "question"),
        ({"text": "x" * 1001}, "QUESTION_TOO_LONG", "question"),
        ({"text": "why", "top": 0}, "OPTION_OUT_OF_RANGE", "top"),
        ({"text": "why", "top": 21}, "OPTION_OUT_OF_RANGE", "top"),
        ({"text": "why", "history": (("a", "b"),) * 21}, "HISTORY_TOO_LONG", "history"),
        ({"text": "why", "history": (("a", "b" * 1001),)}, "HISTORY_TOO_LONG", "history"),
        ({"text": "why", "candidates": tuple(map(str, range(201)))}, "TOO_MANY_CANDIDATES", "candidates"),
        ({"text": "why", "candidates": ("yes", " ")}, "BAD_CANDIDATE", "candidates"),
        ({"text": "why", "candidates": ("yes", "yes")}, "BAD_CANDIDATE", "candidates"),
        ({"text": "why", "candidates": ("x" * 1001,)}, "BAD_CANDIDATE", "candidates"),
    ],
)
def test_what_cannot_be_asked(values, reason, field):
    with pytest.raises(BadQuestion) as refused:
        Query(**values)
    assert (refused.value.reason, refused.value.field) == (reason, field)
    assert str(refused.value)


def test_the_limits_are_inclusive():
    Query("why " * 50, top=200, history=(("q", "a"),) * 20, candidates=tuple(map(str, range(200))))
