"""Between questions in words and the answerer's graph.

Shapes: B photos, N questions, Q words of the longest, H words of the longest history, A answers, W words of the longest
answer, P grid cells, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.bundle import Bundle, BundleError
from captioner.query import BadQuestion, Query
from captioner.results import Answer, Answered
from captioner.tokens import tokenize
from captioner.vocabulary import PAD, UNKNOWN, Vocabulary

LONGEST_HISTORY = 200
"""Words; of a longer one the last are read."""
LONGEST_ANSWER = 20
"""Words of a candidate that are read."""


def encode_questions(vocabulary: Vocabulary, texts: Iterable[str], longest: int | None = None) -> NDArray[np.int64]:
    """Word numbers [N, Q], padded; at least one column. longest: words that are read of each."""
    return padded([vocabulary.encode(tokenize(text)[:longest]) for text in texts])


def encode_history(vocabulary: Vocabulary, exchanges: Iterable[tuple[str, str]]) -> list[int]:
    """Word numbers of questions and answers in order, the last LONGEST_HISTORY of them."""
    return vocabulary.encode(token for exchange in exchanges for text in exchange for token in tokenize(text))[
        -LONGEST_HISTORY:
    ]


def padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Rows of numbers as one array, PAD behind the shorter ones; at least one column."""
    table = np.full((len(rows), max(1, *map(len, rows)) if rows else 1), PAD, np.int64)
    for n, row in enumerate(rows):
        table[n, : len(row)] = row
    return table


class QuestionReader:
    """What goes into a bundle's answerer, and what its output says."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.settings = bundle.model.answerer
        self.number = {answer: n for n, answer in enumerate(bundle.answers)}
        self._known_AW: NDArray[np.int64] | None = None

    @property
    def looks(self) -> bool:
        """Whether the graph says where it looked."""
        return self.settings is not None and self.settings.kind == "attention"

    @property
    def scores_candidates(self) -> bool:
        """Whether any words can be an answer, not only those that the model knows."""
        return self.settings is not None and self.settings.kind == "jabri"

    def check(self, query: Query) -> None:
        """Raise BundleError where there is no answerer, BadQuestion where it does not take this query."""
        if self.settings is None:
            raise BundleError(f"bundle {self.bundle.name} writes captions only: it answers no questions")
        if query.history and not self.settings.history:
            message = f"bundle {self.bundle.name} was not trained on dialogs: it takes no history"
            raise BadQuestion("HISTORY_UNAVAILABLE", "history", message)
        if not self.bundle.answers and not query.candidates:
            message = f"bundle {self.bundle.name} only chooses between candidates, and none are given"
            raise BadQuestion("BAD_CANDIDATE", "candidates", message)

    def inputs(
        self, grid_BPC: NDArray[np.float32], queries: Sequence[Query], pictures: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """The graph's inputs; ValueError if the candidates of two queries differ."""
        for query in queries:
            self.check(query)
        assert self.settings is not None  # checked
        candidates = queries[0].candidates
        if any(query.candidates != candidates for query in queries):
            raise ValueError("queries of one run must have the same candidates")
        words = self.bundle.question_vocabulary
        inputs: dict[str, NDArray[Any]] = {
            "grid": grid_BPC,
            "question": encode_questions(words, (query.text for query in queries)),
            "picture": np.asarray(pictures, np.int64),
        }
        if self.settings.history:
            inputs["history"] = padded([encode_history(words, query.history) for query in queries])
        if self.scores_candidates:
            inputs["candidates"] = self._candidates(candidates)
        return inputs

    def answered(
        self,
        queries: Sequence[Query],
        log_probs_NA: NDArray[np.float32],
        attention_NP: NDArray[np.float32] | None,
    ) -> list[Answered]:
        """The answers of each query, from the graph's outputs."""
        rows, columns, _ = self.bundle.grid
        found = []
        for n, query in enumerate(queries):
            texts, log_probs_A, unknown = self._offered(query, log_probs_NA[n])
            best = np.argsort(-log_probs_A, kind="stable")[: query.top]
            answers = tuple(Answer(texts[a], float(np.exp(log_probs_A[a]))) for a in best)
            numbers = {word: self.bundle.question_vocabulary.number.get(word, UNKNOWN) for word in tokenize(query.text)}
            unknown_words = tuple(word for word, number in numbers.items() if number <= UNKNOWN)
            where = None if attention_NP is None else attention_NP[n].reshape(rows, columns).copy()
            found.append(Answered(answers, where, unknown_words, unknown))
        return found

    def _candidates(self, candidates: tuple[str, ...]) -> NDArray[np.int64]:
        words = self.bundle.question_vocabulary
        if candidates:
            return encode_questions(words, candidates, LONGEST_ANSWER)
        if self._known_AW is None:
            self._known_AW = encode_questions(words, self.bundle.answers, LONGEST_ANSWER)
        return self._known_AW

    def _offered(
        self, query: Query, log_probs_A: NDArray[np.float32]
    ) -> tuple[Sequence[str], NDArray[np.float64], tuple[str, ...]]:
        """The texts to choose from, their log-probabilities, and the candidates that cannot be chosen."""
        log_probs = log_probs_A.astype(np.float64)
        if not query.candidates:
            return self.bundle.answers, log_probs, ()
        if self.scores_candidates:
            words = self.bundle.question_vocabulary
            known = [any(n > UNKNOWN for n in words.encode(tokenize(text))) for text in query.candidates]
            chosen = np.where(known, log_probs, -np.inf)
        else:
            numbers = [self.number.get(text.strip().lower()) for text in query.candidates]
            known = [number is not None for number in numbers]
            chosen = np.array([-np.inf if n is None else log_probs[n] for n in numbers])
        if any(known):
            largest = chosen.max()
            chosen = chosen - largest - np.log(np.exp(chosen - largest).sum())
        return (
            query.candidates,
            chosen,
            tuple(c for c, is_known in zip(query.candidates, known, strict=True) if not is_known),
        )
