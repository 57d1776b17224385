"""What captions are like as language, whatever they are about: length, variety, repetition.

distinct-n is the number of different n-grams over the number of all (Li et al., 2016, section 5), over all captions
together; it falls as captions grow in number, so compare equal numbers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

Tokens = Sequence[str]


@dataclass(frozen=True)
class Language:
    """Properties of a list of captions; shares are in [0, 1]."""

    captions: int
    mean_length: float
    """Words a caption."""
    vocabulary: int
    """Different words."""
    distinct_1: float
    distinct_2: float
    """0 where there is no such n-gram."""
    distinct_captions: float
    """Different captions over all."""
    seen_in_training: float | None
    """Share of captions that stand word for word among the training captions; None without those."""
    repetition: float
    """Share of captions in which a word directly follows itself or the same three words follow each other twice."""

    def as_dict(self) -> dict[str, float | None]:
        """The fields by name, for a report."""
        return asdict(self)


def language(captions: Sequence[Tokens], training: Iterable[Tokens] | None = None) -> Language:
    """Measure tokenised captions, one or more a picture; ValueError if there is none."""
    if not captions:
        raise ValueError("there is no caption to measure")
    texts = [tuple(caption) for caption in captions]
    known = None if training is None else {tuple(caption) for caption in training}
    words = [gram for text in texts for gram in _grams(text, 1)]
    pairs = [gram for text in texts for gram in _grams(text, 2)]
    return Language(
        captions=len(texts),
        mean_length=len(words) / len(texts),
        vocabulary=len(set(words)),
        distinct_1=_distinct(words),
        distinct_2=_distinct(pairs),
        distinct_captions=_distinct(texts),
        seen_in_training=None if known is None else sum(text in known for text in texts) / len(texts),
        repetition=sum(map(repeats, texts)) / len(texts),
    )


def repeats(caption: Tokens) -> bool:
    """Whether a word directly follows itself or the same three words follow each other twice."""
    triples = _grams(caption, 3)
    return any(a == b for a, b in _grams(caption, 2)) or len(set(triples)) < len(triples)


def _grams(caption: Tokens, n: int) -> list[tuple[str, ...]]:
    return [tuple(caption[i : i + n]) for i in range(len(caption) - n + 1)]


def _distinct(grams: Sequence[tuple[str, ...]]) -> float:
    return len(set(grams)) / len(grams) if grams else 0.0
