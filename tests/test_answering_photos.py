"""Captioner.answer on the tiny bundle: remembered grids, words and candidates that are not known, batches."""

from __future__ import annotations

import numpy as np
import pytest

from captioner import BundleError, Captioner
from captioner.query import BadQuestion, Query
from tests.conftest import ANSWERS, tiny_photos

QUESTIONS = ["what is the colour", "how many dog are there", "where is the cat on the red", "is"]


@pytest.fixture(scope="module")
def answering(tiny_bundle_answers) -> Captioner:
    return Captioner.load(tiny_bundle_answers, precision="fp32", threads=1)


def probabilities(answered) -> dict[str, float]:
    return {answer.text: answer.probability for answer in answered.answers}


def test_answers_are_ranked_and_sum_to_one(answering):
    answered = answering.answer(tiny_photos()[0], "what colour is the dog?", top=20)
    given = [answer.probability for answer in answered.answers]
    assert set(probabilities(answered)) == set(ANSWERS)
    assert given == sorted(given, reverse=True)
    assert sum(given) == pytest.approx(1, abs=1e-5)
    assert answered.attention.shape == answering.bundle.grid[:2]
    assert answered.attention.sum() == pytest.approx(1, abs=1e-5)
    assert len(answering.answer(tiny_photos()[0], "what colour is the dog?").answers) == 5


def test_unknown_words_are_reported_once_and_in_order(answering):
    answered = answering.answer(tiny_photos()[0], "Is the zebra 🦓 on the Zebra's unk dog?")
    assert answered.unknown_words == ("zebra", "🦓", "'s", "unk")
    assert "dog" not in answered.unknown_words
    assert answering.answer(tiny_photos()[0], "is the dog").unknown_words == ()


def test_candidates_share_all_probability(answering):
    photo = tiny_photos()[1]
    whole = probabilities(answering.answer(photo, QUESTIONS[0], top=20))
    chosen = answering.answer(photo, QUESTIONS[0], candidates=["red", "Yes", "a unicorn"])
    total = whole["red"] + whole["yes"]
    expected = {"red": whole["red"] / total, "Yes": whole["yes"] / total, "a unicorn": 0.0}
    assert probabilities(chosen) == pytest.approx(expected, abs=1e-5)
    assert chosen.unknown_candidates == ("a unicorn",)
    nothing = answering.answer(photo, QUESTIONS[0], candidates=["a unicorn"])
    assert probabilities(nothing) == {"a unicorn": 0.0}


def test_a_batch_equals_one_by_one(answering):
    photos = tiny_photos()
    queries = [Query(text) for text in QUESTIONS for _ in photos]
    pictures = [n for _ in QUESTIONS for n in range(len(photos))]
    batch = answering.answer_batch(answering.look(photos), queries, pictures)
    said = set()
    for query, picture, answered in zip(queries, pictures, batch, strict=True):
        alone = answering.answer(photos[picture], query.text)
        assert probabilities(answered) == pytest.approx(probabilities(alone), abs=1e-4)
        np.testing.assert_allclose(answered.attention, alone.attention, atol=1e-4)
        said.add(answered.answers[0].text)
    assert len(said) > 1  # or the test could not fail


def test_a_second_question_does_not_look_again(tiny_bundle_answers, monkeypatch, tmp_path):
    captioner = Captioner.load(tiny_bundle_answers, precision="fp32", threads=1)
    looks = []
    encode = captioner.encode
    monkeypatch.setattr(captioner, "encode", lambda pixels: looks.append(len(pixels)) or encode(pixels))
    photo = tiny_photos()[0]
    first = captioner.answer(photo, QUESTIONS[0])
    captioner.answer(photo, QUESTIONS[1])
    caption = captioner.caption(photo)
    assert looks == [1]
    assert probabilities(captioner.answer(photo.copy(), QUESTIONS[0])) == probabilities(first)
    assert looks == [1]
    captioner.look([tiny_photos()[1], photo, tiny_photos()[2]])
    assert looks == [1, 2]
    forgetful = Captioner.load(tiny_bundle_answers, precision="fp32", threads=1, memory_bytes=0)
    assert [c.text for c in forgetful.caption(photo)] == [c.text for c in caption]
    assert len(forgetful.memory) == 0


def test_int8_is_near(tiny_bundle_answers, answering):
    small = Captioner.load(tiny_bundle_answers, precision="int8", threads=1)
    for photo in tiny_photos():
        near = probabilities(small.answer(photo, QUESTIONS[0], top=20))
        far = probabilities(answering.answer(photo, QUESTIONS[0], top=20))
        assert near == pytest.approx(far, abs=0.15)


def test_what_a_bundle_cannot_do_is_said(answering, tiny_bundle):
    with pytest.raises(BundleError, match="writes captions only"):
        Captioner.load(tiny_bundle, threads=1).answer(tiny_photos()[0], "what?")
    with pytest.raises(BadQuestion, match="not trained on dialogs") as refused:
        answering.answer(tiny_photos()[0], "what?", history=[("is it red", "no")])
    assert refused.value.reason == "HISTORY_UNAVAILABLE"
    grid_BPC = answering.look(tiny_photos()[:1])
    with pytest.raises(ValueError, match="same candidates"):
        answering.answer_batch(grid_BPC, [Query("what", candidates=("red",)), Query("what")], [0, 0])
    assert answering.answer_batch(grid_BPC, [], []) == []
