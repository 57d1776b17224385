"""A question about a photo, checked before any work is done for it."""

from __future__ import annotations

from dataclasses import dataclass

from captioner.tokens import tokenize


@dataclass(frozen=True)
class QuestionLimits:
    """What is accepted; all limits are inclusive."""

    max_characters: int = 1000
    """Of a question, a candidate, or an answer of the history."""
    max_words: int = 50
    """Of a question."""
    max_candidates: int = 200
    max_history: int = 20
    """Exchanges."""
    max_top: int = 20
    """Answers returned."""


QUESTION_LIMITS = QuestionLimits()


class BadQuestion(ValueError):  # noqa: N818 - as BadImage
    """A question that cannot be asked; `reason` is in UPPER_SNAKE and stays the same, `field` names what is wrong."""

    def __init__(self, reason: str, field: str, message: str):
        super().__init__(message)
        self.reason, self.field = reason, field


@dataclass(frozen=True)
class Query:
    """A question about a photo; raises BadQuestion where it cannot be asked."""

    text: str
    top: int = 5
    """How many answers to return, in [1, 20], or to the number of candidates if those are more."""
    history: tuple[tuple[str, str], ...] = ()
    """Questions before and their answers; one without a question is a sentence about the photo."""
    candidates: tuple[str, ...] = ()
    """The answers to choose from; empty: all that the model knows."""

    def __post_init__(self) -> None:
        limits = QUESTION_LIMITS
        _short("question", self.text)
        words = len(tokenize(self.text))
        if not words:
            raise BadQuestion("EMPTY_QUESTION", "question", "the question has no words")
        if words > limits.max_words:
            message = f"the question may have {limits.max_words} words, got {words}"
            raise BadQuestion("QUESTION_TOO_LONG", "question", message)
        most = max(limits.max_top, len(self.candidates))
        if not 1 <= self.top <= most:
            raise BadQuestion("OPTION_OUT_OF_RANGE", "top", f"top must be in [1, {most}], got {self.top}")
        if len(self.history) > limits.max_history:
            message = f"the history may have {limits.max_history} exchanges, got {len(self.history)}"
            raise BadQuestion("HISTORY_TOO_LONG", "history", message)
        for text in (text for exchange in self.history for text in exchange):
            _short("history", text)
        if len(self.candidates) > limits.max_candidates:
            message = f"there may be {limits.max_candidates} candidates, got {len(self.candidates)}"
            raise BadQuestion("TOO_MANY_CANDIDATES", "candidates", message)
        for text in self.candidates:
            _short("candidates", text)
            if not text.strip():
                raise BadQuestion("BAD_CANDIDATE", "candidates", "a candidate is empty")
        if len(set(self.candidates)) < len(self.candidates):
            raise BadQuestion("BAD_CANDIDATE", "candidates", "a candidate is given twice")


_REASONS = {"question": "QUESTION_TOO_LONG", "history": "HISTORY_TOO_LONG", "candidates": "BAD_CANDIDATE"}


def _short(field: str, text: str) -> None:
    most = QUESTION_LIMITS.max_characters
    if len(text) > most:
        raise BadQuestion(_REASONS[field], field, f"{field}: a text may have {most} characters, got {len(text)}")
