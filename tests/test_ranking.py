"""Measures of ranked choices, against examples worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.ranking import ndcg, ranking, ranks

SCORES = [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [9, 8, 7]]
CORRECT = [1, 1, 0, 0]  # best, second, last, best
LOG3 = math.log2(3)


def test_ranks_and_what_is_made_of_them():
    assert ranks(SCORES, CORRECT).tolist() == [1, 2, 3, 1]
    found = {name: scores.value for name, scores in ranking(SCORES, CORRECT).items()}
    assert found == pytest.approx(
        {"MRR": (1 + 1 / 2 + 1 / 3 + 1) / 4, "R@1": 2 / 4, "R@5": 1, "R@10": 1, "mean_rank": 7 / 4}
    )


def test_recall_counts_the_place_itself():
    scores = -np.arange(20.0)[None].repeat(5, axis=0)  # choice n has rank n + 1
    found = ranking(scores, [0, 4, 5, 9, 10])
    assert [found[f"R@{k}"].value for k in (1, 5, 10)] == pytest.approx([1 / 5, 2 / 5, 4 / 5])
    assert found["R@5"].per_picture_N.tolist() == [1, 1, 0, 0, 0]


def test_ties_count_against_the_model():
    assert ranks([[0.5, 0.5, 0.1], [0, 0, 0], [0.5, 0.5, 0.9]], [0, 0, 1]).tolist() == [2, 3, 3]
    relevance = [[1, 0.5, 0]]
    # All the same: the first K = 2 places hold 0 and 0.5.
    assert ndcg([[1, 1, 1]], relevance).value == pytest.approx((0.5 / LOG3) / (1 + 0.5 / LOG3))


@pytest.mark.parametrize(
    ("order", "dcg"),
    [
        ((0, 1, 2, 3), 1 + 0.5 / LOG3),
        ((1, 0, 2, 3), 0.5 + 1 / LOG3),
        ((2, 0, 1, 3), 0 + 1 / LOG3),  # K = 2: the third place does not count
        ((2, 1, 0, 3), 0 + 0.5 / LOG3),
        ((3, 2, 1, 0), 0),
    ],
)
def test_ndcg_of_two_relevant_choices_of_four(order, dcg):
    scores = np.zeros(4)
    scores[list(order)] = [4, 3, 2, 1]
    found = ndcg([scores], [[1, 0.5, 0, 0]]).value
    assert found == pytest.approx(dcg / (1 + 0.5 / LOG3))


def test_ndcg_counts_as_many_places_as_that_question_has_relevant_choices():
    # One relevant choice: only the first place counts. Three: log2 of 2, 3 and 4.
    found = ndcg([[3, 2, 1], [3, 2, 1]], [[0, 1, 0], [0.2, 0.4, 1]])
    best = 1 + 0.4 / LOG3 + 0.2 / 2
    assert found.per_picture_N == pytest.approx([0, (0.2 + 0.4 / LOG3 + 1 / 2) / best])
    assert found.value == pytest.approx(found.per_picture_N.mean())


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_properties(choices, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (6, choices)).astype(float)  # with ties
    correct = random.integers(0, choices, 6)
    shuffle = random.permutation(choices)
    moved = np.argsort(shuffle)[correct]
    assert (ranks(scores[:, shuffle], moved) == ranks(scores, correct)).all()
    assert (ranks(2 * scores - 7, correct) == ranks(scores, correct)).all()
    sorted_away = np.sort(-scores, axis=1)
    for n, rank in enumerate(ranks(scores, correct)):
        assert -sorted_away[n, rank - 1] == scores[n, correct[n]]
    relevance = random.integers(0, 3, (6, choices)) / 2
    relevance[:, 0] = 1
    found = ndcg(scores, relevance).per_picture_N
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    assert found == pytest.approx(ndcg(scores[:, shuffle], relevance[:, shuffle]).per_picture_N)
    assert ndcg(relevance, relevance).value == pytest.approx(1)


@pytest.mark.parametrize(
    ("scores", "correct", "complaint"),
    [
        ([1, 2], [0, 0], r"scores must have the shape \[questions, choices\] and hold some, got \(2,\)"),
        (np.zeros((0, 3)), [], r"got \(0, 3\)"),
        ([[1, math.nan]], [0], "scores must be numbers, got NaN"),
        ([[1, 2]], [2], r"correct must be in \[0, 1\], got 2"),
        ([[1, 2]], [-1], r"correct must be in \[0, 1\], got -1"),
        ([[1, 2]], [0, 1], r"correct must be 1 integers, got int64 of shape \(2,\)"),
        ([[1, 2]], [0.0], "correct must be 1 integers, got float64"),
    ],
)
def test_what_cannot_be_ranked(scores, correct, complaint):
    with pytest.raises(ValueError, match=complaint):
        ranks(scores, correct)


@pytest.mark.parametrize(
    ("relevance", "complaint"),
    [
        ([[1, 0]], r"relevance must have the scores' shape \(2, 2\), got \(1, 2\)"),
        ([[1, 0], [0, 0]], "question 1 of 2 has no relevant choice"),
        ([[1, 0], [-1, 1]], "relevance must be at least 0"),
        ([[1, 0], [math.nan, 1]], "relevance must be at least 0"),
    ],
)
def test_what_has_no_ndcg(relevance, complaint):
    with pytest.raises(ValueError, match=complaint):
        ndcg([[1, 2], [3, 4]], relevance)
