"""Which questions are kept: fewer of the common answers, none of the rare ones, as in Ren, Kiros and Zemel (2015).

Questions are enrolled one at a time in a random order. With n questions of the same answer enrolled, the next one is
kept with the probability

    1 if n <= K, else exp(-(n - K) / K2)

K and K2 are shares of the number of pictures, so that a small validation split is balanced like its training split.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from training.caption_questions.rules import Question

FREE_SHARE = 1 / 60
"""K over pictures: 100 for the 6,000 of Flickr8k."""
DECAY_SHARE = 1 / 30
"""K2 over pictures."""
MIN_COUNT = 5
"""Answers with fewer questions in training are dropped."""

Asked = Mapping[int, Sequence[Question]]
"""Questions by image id."""


def balanced(asked: Asked, pictures: int, seed: int, known: Collection[str] | None = None) -> dict[int, list[Question]]:
    """At most one question per picture and answer, no rare answers, few of the frequent ones; the same for a seed.

    `pictures` is the size of the corpus, those without questions included. `known` are the answers of the training
    set: with it, others are dropped and its own rare ones stay.
    """
    chance = random.Random(seed)
    pairs = [(image_id, question) for image_id, questions in asked.items() for question in questions]
    chance.shuffle(pairs)
    pairs = _one_per_answer(pairs)
    counts = Counter(question.answer for _, question in pairs)
    free, decay = FREE_SHARE * pictures, max(DECAY_SHARE * pictures, 1.0)
    enrolled: Counter[str] = Counter()
    kept: dict[int, list[Question]] = {}
    for image_id, question in pairs:
        answer = question.answer
        if (answer not in known) if known is not None else (counts[answer] < MIN_COUNT):
            continue
        if chance.random() < math.exp(min(0.0, (free - enrolled[answer]) / decay)):
            enrolled[answer] += 1
            kept.setdefault(image_id, []).append(question)
    return {image_id: kept[image_id] for image_id in asked if image_id in kept}


def _one_per_answer(pairs: Iterable[tuple[int, Question]]) -> list[tuple[int, Question]]:
    first: dict[tuple[int, str], Question] = {}
    for image_id, question in pairs:
        first.setdefault((image_id, question.answer), question)
    return [(image_id, question) for (image_id, _), question in first.items()]
