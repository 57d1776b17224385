"""CIDEr as coco-caption computes it, which is CIDEr-D (Vedantam et al., 2015, section 4 and its supplement).

Captions are vectors of tf-idf for n-grams g, one vector for each n = 1 to 4:

    w_g   = count of g * (log pictures - log max(1, pictures with g in a reference))
    sim_n = sum_g min(w_g, r_g) r_g / (|w| |r|) * exp(-(l_w - l_r)^2 / (2 * 6^2)),  l = number of 2-grams
    score = 10 * mean over references and n of sim_n

The score of many pictures is their mean. The document frequencies are those of the pictures being scored unless others
are given: with another set of pictures the same caption has another score, so a report has to say which it was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioner.atomic import write_json
from eval.metrics.corpus import LONGEST, Corpus, Ints, Tokens, looked_up, parted
from eval.metrics.scores import Floats, Scores, mean_of

SIGMA = 6.0


@dataclass(frozen=True)
class DocumentFrequencies:
    """In the references of how many pictures each n-gram is."""

    pictures: int
    frequencies: dict[str, int]
    """By n-gram, its words with a space between."""
    tokenizer: str

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        write_json(path, vars(self))

    @classmethod
    def load(cls, path: Path, tokenizer: str) -> DocumentFrequencies:
        """What save wrote; ValueError if another tokeniser counted, or the file is something else."""
        try:
            read = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as e:
            raise ValueError(f"{path}: no document frequencies: {e}") from e
        if read.tokenizer != tokenizer:
            raise ValueError(f"{path}: was counted with the tokeniser {read.tokenizer!r}, not {tokenizer!r}")
        return read


def cider(corpus: Corpus, frequencies: DocumentFrequencies | None = None) -> dict[str, Scores]:
    """CIDEr, in [0, 10], and the same under its other name CIDEr_D."""
    candidates, pictures = corpus.pictures, frequencies.pictures if frequencies else corpus.pictures
    candidate_M = corpus.picture_M[candidates:]
    bigrams_M = np.maximum(0, corpus.length_M - 1)
    apart_M = bigrams_M[candidate_M] - bigrams_M[candidates:]
    similar_M: Floats = np.zeros(len(candidate_M))
    for n, grams in enumerate(corpus.grams, 1):
        rows = parted(corpus, grams)
        if frequencies:
            seen_G = _counted(corpus, n, grams.size, frequencies)
        else:
            seen_G = np.bincount(np.unique(rows.key_R[rows.reference]) % max(1, grams.size), minlength=grams.size)
        weight_R = grams.count_R * (math.log(pictures) - np.log(np.maximum(1, seen_G)))[grams.gram_R]
        norm_M = np.sqrt(np.bincount(grams.caption_R, weight_R**2, len(corpus.captions)))
        other_R = looked_up(rows.key_R[rows.candidate], weight_R[rows.candidate], rows.key_R[rows.reference])
        own_R = weight_R[rows.reference]
        product_M = np.bincount(
            grams.caption_R[rows.reference] - candidates, np.minimum(other_R, own_R) * own_R, len(candidate_M)
        )
        norms_M = norm_M[candidate_M] * norm_M[candidates:]
        similar_M += np.divide(product_M, norms_M, out=np.zeros(len(norms_M)), where=norms_M > 0)
    similar_M *= np.exp(-(apart_M**2) / (2 * SIGMA**2)) / LONGEST
    score_N = 10 * np.bincount(candidate_M, similar_M, candidates) / corpus.references_N
    return {"CIDEr": mean_of(score_N), "CIDEr_D": mean_of(score_N)}


def document_frequencies(references: Sequence[Sequence[Tokens]], tokenizer: str) -> DocumentFrequencies:
    """Count the references of a whole set."""
    corpus = Corpus([[] for _ in references], references)
    frequencies: dict[str, int] = {}
    for n, grams in enumerate(corpus.grams, 1):
        rows = parted(corpus, grams)
        seen_G = np.bincount(np.unique(rows.key_R[rows.reference]) % max(1, grams.size), minlength=grams.size)
        frequencies |= {name: int(seen_G[gram]) for name, gram in corpus.names(n).items()}
    return DocumentFrequencies(corpus.pictures, frequencies, tokenizer)


def fingerprint(references: Sequence[Sequence[Tokens]]) -> str:
    """Of a set of references: scores against another set are not to be compared."""
    return hashlib.sha256(json.dumps([[list(tokens) for tokens in own] for own in references]).encode()).hexdigest()[
        :16
    ]


def _counted(corpus: Corpus, n: int, size: int, frequencies: DocumentFrequencies) -> Ints:
    seen_G = np.zeros(size, np.int64)
    for name, gram in corpus.names(n).items():
        seen_G[gram] = frequencies.frequencies.get(name, 0)
    return seen_G
