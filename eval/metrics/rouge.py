"""ROUGE-L as coco-caption computes it (Lin, 2004): the longest common subsequence, in order but with gaps.

    P = LCS / words of the caption, R = LCS / words of the reference, each the highest of any reference
    F = (1 + b^2) P R / (R + b^2 P),  b = 1.2

The score of many pictures is their mean. As in coco-caption, an empty caption counts as one word, equal to no other
than an empty reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.corpus import Corpus, numbered
from eval.metrics.scores import Scores, mean_of

BETA = 1.2
_EMPTY = [-1]


def rouge_l(corpus: Corpus) -> dict[str, Scores]:
    """ROUGE_L, in [0, 1]."""
    words = [own or _EMPTY for own in numbered(corpus.tokens)[0]]
    picture_M, length_M = corpus.picture_M[corpus.pictures :], np.array([len(own) for own in words])
    common_M = np.array(
        [common(words[n], own) for n, own in zip(picture_M.tolist(), words[corpus.pictures :], strict=True)]
    )
    starts = np.cumsum(corpus.references_N) - corpus.references_N
    precision_N = np.maximum.reduceat(common_M / length_M[picture_M], starts)
    recall_N = np.maximum.reduceat(common_M / length_M[corpus.pictures :], starts)
    weighed_N = recall_N + BETA**2 * precision_N
    product_N = (1 + BETA**2) * precision_N * recall_N
    return {"ROUGE_L": mean_of(np.divide(product_N, weighed_N, out=np.zeros(corpus.pictures), where=weighed_N > 0))}


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common subsequence, a row of the table at a time as the bits of a number (Hyyro, 2004)."""
    where: dict[int, int] = {}
    for n, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << n
    whole = (1 << len(a)) - 1
    row = whole  # a 0 is a place where the subsequence grows by one
    for word in b:
        if hit := row & where.get(word, 0):
            row = (row + hit | row - hit) & whole
    return len(a) - row.bit_count()
