"""BLEU against worked examples, against coco-caption's numbers and, where it is installed, against coco-caption."""

import contextlib
import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import METRICS, score_captions
from eval.metrics import bleu as bleu_of
from eval.metrics.corpus import Corpus

CANDIDATES = [
    "a dog runs over the wet grass",
    "two children play with a red ball on the beach",
    "a man",
    "a woman in a blue coat waits for the the the bus",
    "",
]
REFERENCES = [
    ["a brown dog is running over the grass", "the dog runs over wet grass", "a dog runs"],
    [
        "two kids play with a ball on the beach",
        "children are playing on the sand with a red ball",
        "two children play on the beach",
    ],
    ["a man climbs a steep rock", "a climber on a rock face"],
    ["a woman in a blue coat waits at the bus stop", "the woman is waiting for the bus"],
    ["an empty street at night"],
]
# What pycocoevalcap 1.2's Bleu(4).compute_score returns for them.
CORPUS = [0.7721346905891111, 0.7244281542400841, 0.618557229367196, 0.48786381211661334]
PER_PICTURE = [
    [0.9999999998571429, 0.9999999998000004, 0.13533528310127763, 0.916666666590278, 0.0],
    [0.9128709290339994, 0.9999999997944449, 0.13533528306744386, 0.816496580856592, 0.0],
    [0.6933612742328735, 0.9085602962234217, 0.0013533528310127768, 0.6933612742872518, 0.0],
    [9.554427920229466e-05, 0.6803749331676135, 0.00013533528311819452, 0.6204032393416312, 0.0],
]


def bleu(candidates, references):
    return {name: scores.value for name, scores in bleu_of(Corpus(candidates, references)).items()}


def bleu_per_picture(candidates, references):
    return {name: list(scores.per_picture_N) for name, scores in bleu_of(Corpus(candidates, references)).items()}


def split(texts):
    return [text.split() for text in texts]


def values(scores):
    assert list(scores) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"]
    return list(scores.values())


def test_golden_numbers_of_coco_caption():
    references = [split(texts) for texts in REFERENCES]
    assert values(bleu(split(CANDIDATES), references)) == pytest.approx(CORPUS, abs=1e-9)
    for mine, official in zip(values(bleu_per_picture(split(CANDIDATES), references)), PER_PICTURE, strict=True):
        assert mine == pytest.approx(official, abs=1e-9)


def test_counts_are_clipped():
    # Papineni's own example: "the" is allowed as often as in one reference, so 2 of 7.
    score = bleu([["the"] * 7], [split(["the cat is on the mat", "there is a cat on the mat"])])
    assert score["Bleu_1"] == pytest.approx(2 / 7, abs=1e-8)


def test_bigrams_by_hand():
    # "a b", "b c" and "c d": two of three are in the reference; four of four words.
    score = bleu([list("abcd")], [[list("abcxcd"), list("dddd")]])
    assert score["Bleu_1"] == pytest.approx(1, abs=1e-8)
    assert score["Bleu_2"] == pytest.approx(1, abs=1e-8)  # ab, bc, cd all occur in the first
    score = bleu([list("abcd")], [[list("abcx"), list("dddd")]])
    assert score["Bleu_2"] == pytest.approx(math.sqrt(1 * 2 / 3), abs=1e-8)


def test_short_captions_are_punished_by_the_closest_length():
    # 3 words against references of 6 and 20: exp(1 - 6 / 3).
    score = bleu([list("abc")], [[list("abcdef"), list("abcdefghijklmnopqrst")]])
    assert score["Bleu_1"] == pytest.approx(math.exp(-1), abs=1e-8)


def test_equally_close_lengths_take_the_shorter():
    # 4 words against 3 and 5: with 5 there would be a factor exp(1 - 5 / 4).
    score = bleu([list("abcd")], [[list("abcde"), list("bcd")]])
    assert score["Bleu_1"] == pytest.approx(1, abs=1e-8)


def test_corpus_is_not_the_mean_of_its_pictures():
    candidates, references = [list("ab"), list("cdefgh")], [[list("ax")], [list("cdefgh")]]
    assert bleu(candidates, references)["Bleu_1"] == pytest.approx(7 / 8, abs=1e-8)
    assert bleu_per_picture(candidates, references)["Bleu_1"] == pytest.approx([1 / 2, 1], abs=1e-8)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="as many, got 1 and 2"):
        bleu([["a"]], [[["a"]], [["b"]]])
    with pytest.raises(ValueError, match="'a dog' has no reference"):
        bleu([["a", "dog"]], [[]])
    with pytest.raises(ValueError, match="no caption to score"):
        bleu([], [])


def test_score_captions_tokenizes_both_sides():
    scores = score_captions({3: "A dog, running."}, {3: ["a dog running", "Something else"], 4: ["not captioned"]})
    assert list(scores) == list(METRICS)
    assert scores["Bleu_3"] == pytest.approx(1, abs=1e-8)


def test_score_captions_needs_references():
    with pytest.raises(ValueError, match="picture 5 has a caption and no reference"):
        score_captions({5: "a dog"}, {6: ["a dog"]})
    with pytest.raises(ValueError, match="no caption to score"):
        score_captions({}, {6: ["a dog"]})


words = st.lists(st.sampled_from("abcde"), max_size=9)
pictures = st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=4)), min_size=1, max_size=6)


@given(pictures)
def test_scores_are_shares_and_fall_with_n(pairs):
    scores = values(bleu(*map(list, zip(*pairs, strict=True))))
    assert all(0 <= score <= 1 for score in scores)


@given(pictures, st.randoms(use_true_random=False))
def test_order_of_pictures_and_references_is_nothing(pairs, random):
    score = bleu(*map(list, zip(*pairs, strict=True)))
    shuffled = [(candidate, random.sample(references, len(references))) for candidate, references in pairs]
    random.shuffle(shuffled)
    assert bleu(*map(list, zip(*shuffled, strict=True))) == pytest.approx(score, abs=1e-12)


@settings(max_examples=50)
@given(pictures)
def test_equals_coco_caption_itself(pairs):
    official = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed")
    candidates, references = map(list, zip(*pairs, strict=True))
    with contextlib.redirect_stdout(io.StringIO()):
        corpus, each = official.Bleu(4).compute_score(
            {n: [" ".join(tokens) for tokens in refs] for n, refs in enumerate(references)},
            {n: [" ".join(candidate)] for n, candidate in enumerate(candidates)},
        )
    assert values(bleu(candidates, references)) == pytest.approx(corpus, abs=1e-9)
    for mine, theirs in zip(values(bleu_per_picture(candidates, references)), each, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-9)
