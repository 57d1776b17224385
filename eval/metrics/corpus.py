"""Captions as numbers: what all caption metrics count, made once.

Shapes: N pictures, M captions (the N candidates, then all references, picture by picture), R rows, one for each
distinct n-gram of each caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[str]
Ints = NDArray[np.int64]
LONGEST = 4
"""Of n-grams."""


@dataclass(frozen=True)
class Grams:
    """All n-grams of one n, by caption and then by gram."""

    caption_R: Ints
    gram_R: Ints
    """The same number for the same words, in [0, size)."""
    count_R: Ints
    """How often in that caption."""
    size: int
    at_G: Ints
    """A place of each gram among all words of the corpus; -1 for numbers that no gram has."""


class Corpus:
    """One candidate caption of each picture and its references, both as tokens.

    ValueError if there are no pictures, or a picture has no reference.
    """

    def __init__(self, candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]):
        if len(candidates) != len(references):
            raise ValueError(f"candidates and references must be as many, got {len(candidates)} and {len(references)}")
        if not candidates:
            raise ValueError("there is no caption to score")
        for candidate, own in zip(candidates, references, strict=True):
            if not own:
                raise ValueError(f"the caption {' '.join(candidate)!r} has no reference")
        self.pictures = len(candidates)
        self.tokens: list[Tokens] = [*candidates, *chain.from_iterable(references)]
        # A token may hold a space that does not break ("1 1/2"): coco-caption's n-grams split it, its ROUGE does not.
        self.captions: list[Tokens] = [" ".join(tokens).split() for tokens in self.tokens]
        self.references_N = np.array([len(own) for own in references])
        numbers_N = np.arange(self.pictures)
        self.picture_M = np.concatenate([numbers_N, np.repeat(numbers_N, self.references_N)])
        """The picture of each caption."""
        self.length_M = np.array([len(tokens) for tokens in self.captions])

    @cached_property
    def grams(self) -> list[Grams]:
        """1-grams, 2-grams, ..."""
        words, known = numbered(self.captions)
        word_T = np.fromiter(chain.from_iterable(words), np.int64, int(self.length_M.sum()))
        caption_T = np.repeat(np.arange(len(self.captions)), self.length_M)
        left_T = np.repeat(np.cumsum(self.length_M), self.length_M) - np.arange(
            len(word_T)
        )  # words from here to the end
        gram_T, size, found = word_T, known, []
        for n in range(1, LONGEST + 1):
            if n > 1:  # an n-gram is an (n-1)-gram and a word
                follows_T = np.append(word_T[n - 1 :], np.zeros(n - 1, np.int64))[: len(word_T)]
                distinct, gram_T = np.unique(gram_T * max(1, known) + follows_T, return_inverse=True)
                size = len(distinct)
            whole_T = left_T >= n
            keys = caption_T[whole_T] * max(1, size) + gram_T[whole_T]
            rows, count_R = np.unique(keys, return_counts=True)
            at_G = np.full(size, -1)
            at_G[gram_T[whole_T]] = np.flatnonzero(whole_T)
            found.append(Grams(rows // max(1, size), rows % max(1, size), count_R, size, at_G))
        return found

    def names(self, n: int) -> dict[str, int]:
        """The number of every n-gram by its words."""
        all_T = list(chain.from_iterable(self.captions))
        at_G = self.grams[n - 1].at_G.tolist()
        return {" ".join(all_T[at : at + n]): gram for gram, at in enumerate(at_G) if at >= 0}


def numbered(captions: Sequence[Tokens]) -> tuple[list[list[int]], int]:
    """Each caption's words as numbers, and how many different words there are."""
    index: dict[str, int] = {}
    return [[index.setdefault(word, len(index)) for word in words] for words in captions], len(index)


@dataclass(frozen=True)
class Parted:
    """The rows of one n: first those of candidates, then those of references."""

    candidate: slice
    reference: slice
    key_R: Ints
    """picture * size + gram: sorted and distinct among candidates."""


def parted(corpus: Corpus, grams: Grams) -> Parted:
    """Where candidates end and references begin."""
    first = int(np.searchsorted(grams.caption_R, corpus.pictures))
    key_R = corpus.picture_M[grams.caption_R] * max(1, grams.size) + grams.gram_R
    return Parted(slice(first), slice(first, None), key_R)


def looked_up(keys: Ints, values: NDArray[np.generic], wanted: Ints) -> NDArray[np.generic]:
    """values of the sorted, distinct keys at the wanted keys, 0 where there is none."""
    if not len(keys):
        return np.zeros(len(wanted), values.dtype)
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], np.zeros((), values.dtype))
