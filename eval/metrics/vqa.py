"""VQA accuracy as the official code computes it (Antol et al., 2015; github.com/GT-Vision-Lab/VQA, vqaEval.py).

    accuracy(answer) = mean over the leave-one-out sets of a question's answers of min(matches in the set / 3, 1)

so that with ten answers m matches give 0, .3, .6, .9, 1. All answers are normalised, the prediction too, but only if
the ten differ: where people agree to the letter, "yes!" is not "yes". That is the code of VQA v2 (the last commit,
a013f00, with Python 3's meaning of a digit); older copies always normalise the prediction.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset(("a", "an", "the"))
_COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(n) for n, word in enumerate(_COUNTED.split())}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# Written with one apostrophe missing, they get it back. One entry of the official table goes the other way; those that
# change nothing (let's, she's) and those with a capital, which lower case never meets (I'm), are left out.
CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    word[:n] + word[n + 1 :]: word for word in _CONTRACTED.split() for n, letter in enumerate(word) if letter == "'"
}

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# A point stays if a digit follows. The original means to look behind as well, misspelt ("(?!<=") so that all passes.
_POINT = re.compile(r"\.(?!\d)")
_POINTS = int(re.UNICODE)  # 32: the original passes this flag where the count of replacements belongs


@dataclass(frozen=True)
class VqaScores:
    """Mean accuracies in [0, 1], not rounded, and what the official code makes of them."""

    overall: float
    per_question_type: dict[str, float]
    per_answer_type: dict[str, float]
    per_question: dict[int, float]
    """By question id, in the order of the annotations."""
    official: dict[str, Any]
    """overall, perQuestionType and perAnswerType in percent with two digits, to the digit: means of thousands of
    questions often lie on the edge of rounding, so 100 * overall may round to the other side."""

    def as_dict(self) -> dict[str, Any]:
        """All but the single questions, for a report."""
        return {
            "overall": self.overall,
            "per_question_type": self.per_question_type,
            "per_answer_type": self.per_answer_type,
            "official": self.official,
        }


def vqa_accuracy(answers: Mapping[int, str], annotations: Sequence[Mapping[str, Any]]) -> VqaScores:
    """Score one answer per question id against annotations in the VQA layout.

    ValueError if a question has no answer or an answer no question (a mean over the rest would be another number), if
    there is nothing to score, or if an annotation is there twice or lacks a field.
    """
    per_question: dict[int, float] = {}
    by_question_type: dict[str, list[float]] = defaultdict(list)
    by_answer_type: dict[str, list[float]] = defaultdict(list)
    for annotation in annotations:
        try:
            question_id = annotation["question_id"]
            people = [entry["answer"] for entry in annotation["answers"]]
            question_type, answer_type = annotation["question_type"], annotation["answer_type"]
        except KeyError as e:
            raise ValueError(f"the annotation of question {annotation.get('question_id')!r} has no {e}") from e
        if question_id in per_question:
            raise ValueError(f"question {question_id} is annotated twice")
        if question_id not in answers:
            raise ValueError(f"question {question_id} has no answer to score")
        if not people:
            raise ValueError(f"question {question_id} has no people's answers to score against")
        score = answer_accuracy(answers[question_id], people)
        per_question[question_id] = score
        by_question_type[question_type].append(score)
        by_answer_type[answer_type].append(score)
    if not per_question:
        raise ValueError("there is no question to score")
    for question_id in answers:
        if question_id not in per_question:
            raise ValueError(f"question {question_id} has an answer and no annotation")
    scores = list(per_question.values())
    return VqaScores(
        _mean(scores),
        {name: _mean(own) for name, own in by_question_type.items()},
        {name: _mean(own) for name, own in by_answer_type.items()},
        per_question,
        {
            "overall": _percent(scores),
            "perQuestionType": {name: _percent(own) for name, own in by_question_type.items()},
            "perAnswerType": {name: _percent(own) for name, own in by_answer_type.items()},
        },
    )


def answer_accuracy(answer: str, people: Sequence[str]) -> float:
    """Accuracy of one answer against the answers that people gave, in [0, 1]."""
    answer, people = _trim(answer), [_trim(text) for text in people]
    if len(set(people)) > 1:
        answer, people = normalize_answer(answer), [normalize_answer(text) for text in people]
    matches = [text == answer for text in people]
    total = sum(matches)
    return _mean([min(1.0, (total - match) / 3) for match in matches])


@lru_cache(maxsize=1 << 16)  # answers repeat
def normalize_answer(text: str) -> str:
    """The answer without punctuation and articles, in lower case, number words as digits, contractions spelt out."""
    words = (NUMBERS.get(word, word) for word in _without_punctuation(_trim(text)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _trim(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A mark is taken out if it stands beside a space anywhere, or any number has a comma; else it becomes a space."""
    all_go = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        if mark in text:
            goes = all_go or f"{mark} " in text or f" {mark}" in text
            out = out.replace(mark, "" if goes else " ")
    return _POINT.sub("", out, count=_POINTS)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _percent(scores: Sequence[float]) -> float:
    return round(100 * sum(scores) / len(scores), 2)  # in this order of operations
