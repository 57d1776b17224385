"""BLEU as coco-caption computes it (Papineni et al., 2002, with the closest reference length).

    p_k    = matching k-grams, each counted at most as often as in one reference / k-grams of the candidates
    BLEU_n = (p_1 ... p_n) ** (1 / n) * min(1, exp(1 - 1 / ratio)),  ratio = length of candidates / of references

Counts are summed over all pictures first. NLTK's BLEU and sacreBLEU are other numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Tokens = Sequence[str]

# coco-caption adds these to numerators and denominators so that nothing divides by zero; they are part of the metric.
_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True)
class _Counts:
    """What BLEU needs to know: of one picture or, summed, of many."""

    matches: list[int]
    """By k - 1."""
    grams: list[int]
    length: int
    reference_length: int


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], n: int = 4) -> dict[str, float]:
    """Corpus BLEU of one caption per picture against that picture's references: Bleu_1 ... Bleu_n, in [0, 1]."""
    pictures = _count_all(candidates, references, n)
    total = _Counts(
        [sum(picture.matches[k] for picture in pictures) for k in range(n)],
        [sum(picture.grams[k] for picture in pictures) for k in range(n)],
        sum(picture.length for picture in pictures),
        sum(picture.reference_length for picture in pictures),
    )
    return _scores(total)


def bleu_per_picture(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], n: int = 4
) -> dict[str, list[float]]:
    """BLEU of every caption by itself, in the order given; its mean is not the corpus BLEU."""
    pictures = [_scores(counts) for counts in _count_all(candidates, references, n)]
    return {name: [scores[name] for scores in pictures] for name in pictures[0]}


def _count_all(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], n: int) -> list[_Counts]:
    if len(candidates) != len(references):
        raise ValueError(f"candidates and references must be as many, got {len(candidates)} and {len(references)}")
    if not candidates:
        raise ValueError("there is no caption to score")
    return [_count(candidate, refs, n) for candidate, refs in zip(candidates, references, strict=True)]


def _count(candidate: Tokens, references: Sequence[Tokens], n: int) -> _Counts:
    if not references:
        raise ValueError(f"the caption {' '.join(candidate)!r} has no reference")
    allowed: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        allowed |= _grams(reference, n)  # the most often in any one reference
    matches = [0] * n
    for gram, count in _grams(candidate, n).items():
        matches[len(gram) - 1] += min(count, allowed[gram])
    length = len(candidate)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]  # ties: the shorter
    return _Counts(matches, [max(0, length - k) for k in range(n)], length, closest)


def _grams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + k]) for k in range(1, n + 1) for i in range(len(tokens) - k + 1))


def _scores(counts: _Counts) -> dict[str, float]:
    ratio = (counts.length + _TINY) / (counts.reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = {}, 1.0
    for k, (matches, grams) in enumerate(zip(counts.matches, counts.grams, strict=True), 1):
        product *= (matches + _TINY) / (grams + _SMALL)
        scores[f"Bleu_{k}"] = product ** (1 / k) * brevity
    return scores
