"""The answers that a network learns to give, and how right each is for a question.

People's answers are compared after the official normalisation (eval.metrics.vqa) and given in their commonest spelling:
where all ten agree to the letter, the official code takes the answer to the letter too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from eval.metrics.vqa import normalize_answer
from eval.questions import Question

AGREEING = 3
"""People whose agreement makes an answer wholly right."""


def soft_scores(question: Question) -> dict[str, float]:
    """min(matches / 3, 1) for each normalised answer (Antol et al., 2015, without leaving one person out)."""
    counts = Counter(normalize_answer(text) for text in question.answers)
    enough = min(AGREEING, len(question.answers))  # a set with one answer a question
    return {answer: min(count / enough, 1.0) for answer, count in counts.items() if answer}


def answer_list(questions: Iterable[Question], min_count: int, most: int) -> tuple[str, ...]:
    """The `most` commonest answers that at least min_count questions have, commonest first, ties by spelling."""
    counts: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts.update(soft_scores(question).keys())
        for text in question.answers:
            spellings[normalize_answer(text)][text.strip()] += 1
    kept = sorted((answer for answer, n in counts.items() if n >= min_count), key=lambda a: (-counts[a], a))[:most]
    if not kept:
        raise ValueError(f"no answer is given to min_count={min_count} questions")
    return tuple(min(spellings[answer], key=lambda text: (-spellings[answer][text], text)) for answer in kept)


def answer_numbers(answers: Iterable[str]) -> dict[str, int]:
    """Where each normalised answer is in the list."""
    return {normalize_answer(text): number for number, text in enumerate(answers)}
