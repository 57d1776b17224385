"""Rows that keep people honest: what people, and what no look at the picture at all, would score on the same split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics import all_scores
from eval.metrics.cider import DocumentFrequencies
from eval.metrics.corpus import Corpus, Tokens, parted


@dataclass(frozen=True)
class Row:
    """Another captioner's scores and what it is, in a sentence."""

    metrics: dict[str, float]
    about: str


def human(references: Sequence[Sequence[Tokens]], frequencies: DocumentFrequencies | None = None) -> Row | None:
    """One reference against the others; None if no picture has two."""
    several = [own for own in references if len(own) > 1]
    if not several:
        return None
    metrics = _metrics([own[0] for own in several], [own[1:] for own in several], frequencies)
    return Row(metrics, f"the first reference against the others, {len(several)} pictures")


def constant(references: Sequence[Sequence[Tokens]], frequencies: DocumentFrequencies | None = None) -> Row:
    """The most typical reference, said of every picture."""
    caption = typical(references)
    return Row(_metrics([caption] * len(references), references, frequencies), f"always {' '.join(caption)!r}")


def typical(references: Sequence[Sequence[Tokens]]) -> Tokens:
    """The reference whose n-grams are in the references of the most pictures, in the mean; none shorter than most."""
    corpus = Corpus([[] for _ in references], references)
    share_M = np.zeros(len(corpus.captions))
    for grams in corpus.grams:
        rows = parted(corpus, grams)
        seen_G = np.bincount(np.unique(rows.key_R[rows.reference]) % max(1, grams.size), minlength=grams.size)
        each_M = np.bincount(grams.caption_R, seen_G[grams.gram_R], len(share_M))
        share_M += each_M / np.maximum(1, np.bincount(grams.caption_R, minlength=len(share_M)))
    share_M[corpus.length_M < np.median(corpus.length_M[corpus.pictures :])] = -1  # BLEU punishes short captions
    return corpus.captions[int(share_M.argmax())]


def _metrics(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], frequencies: DocumentFrequencies | None
) -> dict[str, float]:
    return {name: scores.value for name, scores in all_scores(Corpus(candidates, references), frequencies).items()}
