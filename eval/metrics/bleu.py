"""BLEU as coco-caption computes it (Papineni et al., 2002, with the closest reference length).

    p_k    = matching k-grams, each counted at most as often as in one reference / k-grams of the candidates
    BLEU_n = (p_1 ... p_n) ** (1 / n) * min(1, exp(1 - 1 / ratio)),  ratio = length of candidates / of references

Counts are summed over all pictures first. NLTK's BLEU and sacreBLEU are other numbers.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from eval.metrics.corpus import LONGEST, Corpus, looked_up, parted
from eval.metrics.scores import Floats, Scores

# coco-caption adds these to numerators and denominators so that nothing divides by zero; they are part of the metric.
_TINY = 1e-15
_SMALL = 1e-9


def bleu(corpus: Corpus) -> dict[str, Scores]:
    """Bleu_1 ... Bleu_4, in [0, 1]; a picture's own BLEU is that of a corpus of one."""
    statistics_NS = np.stack([*_matches(corpus), *_grams(corpus), *_lengths(corpus)], axis=1).astype(float)
    totals = {f"Bleu_{n}": partial(_total, n) for n in range(1, LONGEST + 1)}
    return {name: Scores(total(statistics_NS), statistics_NS, total) for name, total in totals.items()}


def _matches(corpus: Corpus) -> list[Floats]:
    """Clipped matches of each picture, by n."""
    found = []
    for grams in corpus.grams:
        rows = parted(corpus, grams)
        order = np.argsort(rows.key_R[rows.reference], kind="stable")
        keys, starts = np.unique(rows.key_R[rows.reference][order], return_index=True)
        counts = grams.count_R[rows.reference][order]
        most = np.maximum.reduceat(counts, starts) if len(starts) else counts
        allowed = looked_up(keys, most, rows.key_R[rows.candidate])
        matches = np.minimum(grams.count_R[rows.candidate], allowed)
        found.append(np.bincount(grams.caption_R[rows.candidate], matches, corpus.pictures))
    return found


def _grams(corpus: Corpus) -> list[Floats]:
    """How many n-grams each candidate has, by n."""
    length_N = corpus.length_M[: corpus.pictures]
    return [np.maximum(0, length_N - n).astype(float) for n in range(LONGEST)]


def _lengths(corpus: Corpus) -> tuple[Floats, Floats]:
    """Each candidate's length and the closest of its references' lengths; of two as close the shorter."""
    length_N, length_M = corpus.length_M[: corpus.pictures], corpus.length_M[corpus.pictures :]
    far_M = np.abs(length_M - np.repeat(length_N, corpus.references_N))
    order = far_M * (length_M.max() + 1) + length_M
    starts = np.cumsum(corpus.references_N) - corpus.references_N
    return length_N.astype(float), (np.minimum.reduceat(order, starts) % (length_M.max() + 1)).astype(float)


def _total(n: int, sums: Floats) -> Floats:
    """BLEU_n of the sums [..., 10]: matches and n-grams for n = 1 to 4, length, closest length."""
    length, closest = sums[..., 2 * LONGEST], sums[..., 2 * LONGEST + 1]
    ratio = (length + _TINY) / (closest + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    precisions = (sums[..., :n] + _TINY) / (sums[..., LONGEST : LONGEST + n] + _SMALL)
    score: Floats = precisions.prod(axis=-1) ** (1 / n) * brevity
    return score
