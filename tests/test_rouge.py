"""ROUGE-L against worked examples and, where it is installed, against coco-caption."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.corpus import Corpus
from eval.metrics.rouge import common, rouge_l


def score(candidate, *references):
    return rouge_l(Corpus([candidate.split()], [[r.split() for r in references]]))["ROUGE_L"].value


def test_by_hand():
    # "a dog runs" of "a brown dog runs fast": LCS 3, P = 3/3, R = 3/5.
    assert score("a dog runs", "a brown dog runs fast") == pytest.approx((1 + 1.44) * 0.6 / (0.6 + 1.44))
    assert score("a b c", "a b c") == pytest.approx(1)
    assert score("a b", "c d") == 0


def test_precision_and_recall_may_come_from_different_references():
    # P = 1 from the long one (2 of 2), R = 1 from the short one (1 of 1).
    assert score("a b", "a x b y", "a") == pytest.approx(1)


def test_empty_captions_are_one_word_as_in_coco_caption():
    assert score("", "a b") == 0
    assert score("", "") == pytest.approx(1)


def test_many_pictures_are_a_mean():
    corpus = Corpus([["a"], ["b"], ["c"]], [[["a"]], [["x"]], [["c"]]])
    assert list(rouge_l(corpus)["ROUGE_L"].per_picture_N) == pytest.approx([1, 0, 1])
    assert rouge_l(corpus)["ROUGE_L"].value == pytest.approx(2 / 3)


words = st.lists(st.integers(0, 4), max_size=12)


def table_lcs(a, b):
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            rows[i + 1][j + 1] = rows[i][j] + 1 if x == y else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


@given(words, words)
def test_bits_equal_the_table(a, b):
    assert common(a, b) == common(b, a) == table_lcs(a, b)


letters = st.lists(st.sampled_from("abcde"), max_size=9)
pictures = st.lists(st.tuples(letters, st.lists(letters, min_size=1, max_size=4)), min_size=1, max_size=6)


@settings(max_examples=50)
@given(pictures)
def test_equals_coco_caption_itself(pairs):
    official = pytest.importorskip("pycocoevalcap.rouge.rouge", reason="pycocoevalcap is not installed")
    candidates, references = map(list, zip(*pairs, strict=True))
    total, each = official.Rouge().compute_score(
        {n: [" ".join(tokens) for tokens in refs] for n, refs in enumerate(references)},
        {n: [" ".join(candidate)] for n, candidate in enumerate(candidates)},
    )
    mine = rouge_l(Corpus(candidates, references))["ROUGE_L"]
    assert mine.value == pytest.approx(total, abs=1e-9)
    assert list(mine.per_picture_N) == pytest.approx(list(each), abs=1e-9)
