"""Gender said against gender seen, where gendered words look, and the question-only gap, on paper."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.results import Caption, Word
from eval.bias import HE, MAN, NEUTRAL, SHE, WOMAN, gender_bias, question_only_gap, reference_gender, said
from eval.pointing import Boxed

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)


def split(*texts):
    return [text.split() for text in texts]


def looking(**columns):
    """A caption whose words look, on a grid of 2 x 4, at one column of the upper row; None has no map."""
    words = []
    for text, column in columns.items():
        attention = np.full((2, 4), 0.05, np.float32)
        if column is not None:
            attention[0, column] = 0.65
        words.append(Word(text, -0.1, None if column is None else attention))
    return Caption(" ".join(columns), -1.0, -1.0, tuple(words))


def boxed(image_id, **boxes):
    return Boxed(image_id, Path("1.png"), {tuple(name.split("_")): own for name, own in boxes.items()})


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("a woman on a board", "woman"),
        ("two girls and a child", "woman"),
        ("a man on a board", "man"),
        ("a man and a woman", "both"),
        ("a boy and his mother", "both"),
        ("a person on a board", "neutral"),
        ("a person on her board", "woman"),
        ("a male tennis player", "man"),
        ("an elephant and her calf", "none"),
        ("a dog", "none"),
        ("", "none"),
    ],
)
def test_what_a_caption_says(caption, says):
    assert said(caption.split()) == says


def test_references_must_agree():
    assert reference_gender(split("a woman skis", "a person skis", "a slope")) == "woman"
    assert reference_gender(split("a man skis", "a boy skis")) == "man"
    assert reference_gender(split("a man skis", "a woman skis")) is None
    assert reference_gender(split("a man skis", "a man and a woman ski")) is None
    assert reference_gender(split("a person skis", "a slope")) is None
    assert reference_gender([]) is None


def test_word_lists_do_not_overlap():
    lists = (WOMAN, MAN, NEUTRAL, SHE, HE)
    assert len(frozenset().union(*lists)) == sum(map(len, lists))


def test_confusion_by_hand():
    seen = {1: "woman", 2: "woman", 3: "woman", 4: "woman", 5: "man", 6: "man", 7: "man", 8: "person"}
    saying = {1: "woman", 2: "man", 3: "man", 4: "person", 5: "man", 6: "woman", 7: "dog", 8: "man", 9: "man"}
    captions = {image_id: [word] for image_id, word in saying.items()}
    bias = gender_bias(captions, {image_id: [["a", word]] for image_id, word in seen.items()})
    assert bias.table == {
        "woman": {"woman": 1, "man": 2, "both": 0, "neutral": 1, "none": 0},
        "man": {"woman": 1, "man": 1, "both": 0, "neutral": 0, "none": 1},
    }  # 8 has no gender, 9 no references
    assert bias.pictures == 7
    assert bias.error("woman") == pytest.approx(2 / 4)
    assert bias.error("man") == pytest.approx(1 / 3)
    assert bias.error() == pytest.approx(3 / 7)
    assert bias.ratio_said == pytest.approx(2 / 3)
    assert bias.ratio_seen == pytest.approx(4 / 3)
    assert bias.looks is None
    report = bias.as_dict()
    assert (report["error"], report["error_woman"], report["looks"]) == (bias.error(), bias.error("woman"), None)


def test_no_picture_with_a_gender():
    bias = gender_bias({1: ["dog"]}, {1: [["dog"]]})
    assert (bias.pictures, bias.error(), bias.error("man"), bias.ratio_said, bias.ratio_seen) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_gendered_nouns_should_look_at_persons():
    attention = {
        1: looking(a=0, woman=3, walks=0),  # on the person
        2: looking(man=0, and_=0, boy=3),  # one on, one off
        3: looking(a=3, dog=3),  # nothing said
        4: looking(man=3),  # no person's box
        5: looking(man=None),  # no map
    }
    pictures = [
        boxed(1, person=[RIGHT], dog=[LEFT]),
        boxed(2, person=[(0.0, 0.0, 0.25, 0.5), (0.0, 0.0, 0.25, 0.5)]),  # one cell of eight, boxed twice
        boxed(3, person=[RIGHT]),
        boxed(4, dog=[RIGHT]),
        boxed(5, person=[RIGHT]),
        boxed(6, person=[RIGHT]),
    ]
    looks = gender_bias({}, {}, attention, pictures).looks
    assert looks.words == 3
    assert looks.share == pytest.approx(2 / 3)
    assert looks.chance == pytest.approx((1 / 2 + 1 / 8 + 1 / 8) / 3)
    assert gender_bias({}, {}, attention, pictures).as_dict()["looks"]["words"] == 3
    assert gender_bias({}, {}, attention, pictures[2:]).looks is None
    assert gender_bias({}, {}, None, pictures).looks is None


def test_question_only_gap():
    gap = question_only_gap(0.58, 0.49)
    assert gap.gap == pytest.approx(0.09)
    assert gap.as_dict() == {"accuracy": 0.58, "question_only": 0.49, "gap": gap.gap}
    with pytest.raises(ValueError, match=r"question_only_accuracy must be in \[0, 1\], got 49"):
        question_only_gap(0.58, 49)


texts = st.lists(st.sampled_from(["woman", "girl", "man", "boy", "person", "her", "his", "dog"]), max_size=4)
SWAP = {"woman": "man", "girl": "boy", "man": "woman", "boy": "girl", "her": "his", "his": "her"}


@given(st.dictionaries(st.integers(1, 9), st.tuples(texts, st.lists(texts, max_size=3))))
def test_swapping_the_genders_swaps_the_table(pictures):
    def swapped(text):
        return [SWAP.get(word, word) for word in text]

    one = gender_bias({i: c for i, (c, _) in pictures.items()}, {i: r for i, (_, r) in pictures.items()})
    two = gender_bias(
        {i: swapped(c) for i, (c, _) in pictures.items()}, {i: list(map(swapped, r)) for i, (_, r) in pictures.items()}
    )
    other = {"woman": "man", "man": "woman"}
    for gender, row in one.table.items():
        assert two.table[other[gender]] == {name: row[other.get(name, name)] for name in row}
    assert two.error() == one.error()
