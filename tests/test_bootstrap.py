"""Intervals and paired differences where the answer is known, and the rows beside a model's."""

import numpy as np
import pytest

from eval.baselines import constant, human, typical
from eval.bootstrap import differences, intervals, resampled
from eval.metrics import all_scores
from eval.metrics.corpus import Corpus
from eval.metrics.scores import mean_of


def test_pictures_that_are_all_alike_leave_no_doubt():
    low, high = intervals({"m": mean_of(np.full(20, 0.3))})["m"]
    assert low == pytest.approx(0.3)
    assert high == pytest.approx(0.3)


def test_the_interval_of_a_mean_is_that_of_theory():
    # 400 coins: the standard error of the mean is 0.5 / 20 = 0.025, and 95 % lie within 1.96 of those.
    values_N = np.tile([0.0, 1.0], 200)
    low, high = intervals({"m": mean_of(values_N)}, 4000)["m"]
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


def test_a_corpus_metric_is_computed_anew_for_each_resample():
    corpus = Corpus([list("ab"), list("cdef")], [[list("ab")], [list("cxxx")]])
    bleu = all_scores(corpus)["Bleu_1"]
    # Both, twice the first, twice the second: 3/6, 1 and 1/4. Never the mean of 1 and 1/4.
    found = set(np.round(resampled({"m": bleu}, 200)["m"], 6))
    assert found == {0.5, 1.0, 0.25}


def test_the_same_resamples_for_both_and_the_same_every_time():
    random = np.random.default_rng(0)
    a_N = random.normal(size=300)
    a, b = {"m": mean_of(a_N)}, {"m": mean_of(a_N + 0.01)}
    found = differences(a, b)["m"]
    # Each picture is 0.01 worse: whatever is drawn, so is the mean.
    assert (found.difference, found.low, found.high) == pytest.approx((-0.01, -0.01, -0.01))
    assert found.p_value == pytest.approx(2 / 1001)
    assert differences(a, b)["m"] == found


def test_no_difference_has_a_large_p():
    random = np.random.default_rng(1)
    a, b = {"m": mean_of(random.normal(size=300))}, {"m": mean_of(random.normal(size=300))}
    assert differences(a, b)["m"].p_value > 0.05
    assert differences(a, a)["m"].p_value == 1


REFERENCES = [
    [["a", "dog", "runs"], ["a", "dog", "runs"]],
    [["a", "dog", "sits"], ["the", "dog", "sits"]],
    [["two", "cats", "play"]],
]


def test_people_are_scored_on_pictures_with_two_references():
    row = human(REFERENCES)
    assert row.metrics["Bleu_1"] == pytest.approx(5 / 6)  # "a" is not in "the dog sits"
    assert row.about == "the first reference against the others, 2 pictures"
    assert human([[["a"]]]) is None


def test_the_typical_caption_is_that_of_the_commonest_words():
    # "a dog" is in two of three pictures.
    assert typical(REFERENCES) == ["a", "dog", "runs"]
    row = constant(REFERENCES)
    assert row.about == "always 'a dog runs'"
    assert row.metrics["Bleu_1"] == pytest.approx((3 + 2 + 0) / 9)
