"""Length, variety and repetition of captions that a person can count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.language import language, repeats


def split(*texts):
    return [text.split() for text in texts]


def test_counts_by_hand():
    found = language(split("a dog runs", "a dog sits on a mat", "a dog runs"), split("a dog runs", "a cat"))
    assert found.captions == 3
    assert found.mean_length == pytest.approx(12 / 3)
    assert found.vocabulary == 6  # a dog runs sits on mat
    assert found.distinct_1 == pytest.approx(6 / 12)
    assert found.distinct_2 == pytest.approx(6 / 9)  # a-dog dog-runs dog-sits sits-on on-a a-mat
    assert found.distinct_captions == pytest.approx(2 / 3)
    assert found.seen_in_training == pytest.approx(2 / 3)
    assert found.repetition == 0


def test_seen_means_word_for_word():
    captions = split("a dog", "a dog runs", "dog a")
    assert language(captions, split("a dog runs fast", "a dog")).seen_in_training == pytest.approx(1 / 3)
    assert language(captions, []).seen_in_training == 0
    assert language(captions).seen_in_training is None


@pytest.mark.parametrize(
    ("caption", "repetitive"),
    [
        ("a man in a red red hat", True),
        ("a man in a hat in a hat", True),  # in a hat
        ("next to a dog next to a cat", True),  # next to a
        ("to a dog to a cat", False),  # only two words twice
        ("a b a b", False),  # a b a, b a b
        ("a b a b a", True),  # a b a overlaps itself
        ("dog", False),
        ("", False),
    ],
)
def test_what_counts_as_repetition(caption, repetitive):
    assert repeats(caption.split()) is repetitive


def test_empty_captions_and_no_captions():
    found = language([[], []], [[]])
    assert (found.mean_length, found.vocabulary, found.distinct_1, found.distinct_2) == (0, 0, 0, 0)
    assert (found.distinct_captions, found.seen_in_training, found.repetition) == (0.5, 1, 0)
    assert language([["dog"]]).distinct_2 == 0
    with pytest.raises(ValueError, match="no caption to measure"):
        language([])


captions = st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=1, max_size=6)


@given(captions)
def test_twice_the_captions_say_half_as_much_new(once):
    one, two = language(once, once), language(once * 2, once)
    assert (one.seen_in_training, two.seen_in_training) == (1, 1)
    assert (two.mean_length, two.vocabulary, two.repetition) == (one.mean_length, one.vocabulary, one.repetition)
    for name in ("distinct_1", "distinct_2", "distinct_captions"):
        assert getattr(two, name) == pytest.approx(getattr(one, name) / 2)


@given(captions)
def test_shares_are_shares_and_the_report_has_them_all(texts):
    report = language(texts, texts[:1]).as_dict()
    assert report.keys() == {
        *("captions", "mean_length", "vocabulary", "distinct_1", "distinct_2"),
        *("distinct_captions", "seen_in_training", "repetition"),
    }
    shares = [value for name, value in report.items() if name not in ("captions", "mean_length", "vocabulary")]
    assert all(0 <= share <= 1 for share in shares)
