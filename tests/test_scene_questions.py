"""Questions about drawn scenes: what they ask has one answer, it is the one given, and words alone do not tell it."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics.vqa import vqa_accuracy
from eval.questions import load_questions
from training.scene_questions import Shape, ask, write_questions
from training.scenes import COLOURS, PLACES, SHAPES, draw_scene, draw_splits

KINDS = {"colour", "shape", "place", "count", "yes/no"}
NAMES = {"colour": tuple(COLOURS), "form": SHAPES, "place": PLACES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    draw_splits(folder, {"train": 300, "val": 20})
    for split in ("train", "val"):
        write_questions(folder, split)
    return folder


def loaded(folder, split="train"):
    return load_questions(folder / f"questions_{split}.json", folder / f"annotations_{split}.json", folder / split)


def boxes(split):
    return {annotation["question_id"]: annotation.get("box") for annotation in split.annotations}


def drawn(image_id):
    """The shapes that were drawn, straight from the drawing."""
    _, shapes = draw_scene(np.random.default_rng(image_id))
    return [dict(zip(("colour", "form"), s["name"].split(), strict=True)) | s for s in shapes]


def fitting(words, shapes):
    """The shapes that fit every colour, form and place in the words."""
    said = {
        name: value for name, values in NAMES.items() for value in values if re.search(rf"\b{value}(e?s)?\b", words)
    }
    return [shape for shape in shapes if all(shape[name] == value for name, value in said.items())]


def read_and_answer(text, shapes):
    """(answer, shapes that the question speaks of), found from nothing but the text."""
    if found := re.fullmatch(r"what colour is the (.+)\?|what is the colour of the (.+)\?", text):
        (one,) = fitting(found[1] or found[2], shapes)
        return one["colour"], [one]
    if found := re.fullmatch(r"(?:where|in which corner) is the (.+)\?", text):
        (one,) = fitting(found[1], shapes)
        return one["place"].removeprefix("at the "), [one]
    if found := re.fullmatch(r"(?:what|which) shape is (.+)\?|what is the (.*shape.*)\?", text):
        (one,) = fitting(found[1] or found[2], shapes)
        return one["form"], [one]
    if found := re.fullmatch(r"how many (.+) are (?:there|in the picture)\?", text):
        return str(len(fitting(found[1], shapes))), []
    if found := re.fullmatch(r"(?:is there|can you see) an? (.+)\?", text):
        those = fitting(found[1], shapes)
        return "yes" if those else "no", those
    claims = "|".join((*COLOURS, *(f"a {form}" for form in SHAPES), *PLACES))
    found = re.fullmatch(rf"is the (.+) ({claims})\?", text)
    (one,) = fitting(found[1], shapes)
    return "yes" if fitting(found[2], [one]) else "no", [one]


def test_answers_and_boxes_are_those_of_the_picture(folder):
    split = loaded(folder)
    box = boxes(split)
    for question in split.questions:
        answer, spoken_of = read_and_answer(question.text, drawn(question.image_id))
        assert question.answers == (answer,) * 10, question.text
        assert box[question.question_id] == (spoken_of[0]["box"] if len(spoken_of) == 1 else None), question.text


def test_the_reader_and_the_metric_take_the_files(folder):
    split = loaded(folder, "val")
    assert [picture.path.is_file() for picture in split.pictures] == [True] * 20
    assert {question.question_type for question in split.questions} == KINDS
    assert {(q.question_type, q.answer_type) for q in split.questions} == {
        ("colour", "other"), ("shape", "other"), ("place", "other"), ("count", "number"), ("yes/no", "yes/no"),
    }  # fmt: skip
    assert vqa_accuracy({q.question_id: q.answers[0] for q in split.questions}, split.annotations).overall == 1


def test_boxes_are_there_where_the_answer_has_a_place(folder):
    split = loaded(folder)
    box = boxes(split)
    with_box = defaultdict(list)
    for question in split.questions:
        with_box[question.question_type].append(box[question.question_id] is not None)
    assert all(all(with_box[kind]) for kind in ("colour", "shape", "place"))
    assert not any(with_box["count"])
    assert 0 < sum(with_box["yes/no"]) < len(with_box["yes/no"])


def test_six_to_eight_questions_a_picture_all_different(folder):
    texts = defaultdict(list)
    for question in loaded(folder).questions:
        texts[question.image_id].append(question.text)
    assert all(6 <= len(own) <= 8 for own in texts.values())
    assert all(len(set(own)) == len(own) for own in texts.values())


def test_half_of_the_yes_no_questions_are_true_in_every_wording(folder):
    answers = defaultdict(Counter)
    for question in loaded(folder).questions:
        if question.answer_type == "yes/no":
            answers[" ".join(question.text.split()[:2])][question.answers[0]] += 1
    total = sum(answers.values(), Counter())
    assert total["yes"] == total["no"] == 300
    assert set(answers) == {"is there", "can you", "is the"}
    for wording, counts in answers.items():
        assert 0.35 < counts["yes"] / counts.total() < 0.65, wording


def test_words_alone_tell_little(folder):
    """Counts are 0, 1 and 2, and no colour, form or place is the answer far more often than the others."""
    answers = defaultdict(Counter)
    for question in loaded(folder).questions:
        answers[question.question_type][question.answers[0]] += 1
    assert set(answers["count"]) == {"0", "1", "2"}
    assert set(answers["colour"]) == set(COLOURS)
    assert set(answers["shape"]) == set(SHAPES)
    assert {f"at the {answer}" for answer in answers["place"]} == set(PLACES)
    for kind in ("colour", "shape", "place"):
        most, least = max(answers[kind].values()), min(answers[kind].values())
        assert most < 2 * least, answers[kind]


def test_the_same_every_time_whatever_the_other_pictures(folder, tmp_path):
    draw_splits(tmp_path, {"train": 7})
    write_questions(tmp_path, "train")
    first = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    write_questions(tmp_path, "train")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == first
    few = json.loads(first["annotations_train.json"])["annotations"]
    assert few == list(loaded(folder).annotations)[: len(few)]


scenes = st.lists(st.sampled_from(PLACES), min_size=1, max_size=2, unique=True).flatmap(
    lambda places: st.tuples(
        *(st.builds(Shape, st.sampled_from(tuple(COLOURS)), st.sampled_from(SHAPES), st.just(p)) for p in places)
    )
)


@given(scenes, st.integers(0, 2**32 - 1))
def test_every_scene_gets_questions_with_one_answer(shapes, seed):
    asked = ask(shapes, np.random.default_rng(seed))
    twins = len({(shape.colour, shape.form) for shape in shapes}) < len(shapes)
    assert len(asked) == 2 * len(shapes) + 4 - twins  # nobody can ask where one of two red circles is
    for question in asked:
        answer, spoken_of = read_and_answer(question.text, [vars(shape) for shape in shapes])
        assert answer == question.answer, question.text
        assert question.about == (Shape(**spoken_of[0]) if len(spoken_of) == 1 else None), question.text


def test_shapes_as_people_say_them():
    assert str(Shape("red", "circle", "at the top left")) == "red circle at the top left"
    assert str(Shape(colour="red")) == "red shape"
    assert str(Shape()) == "shape in the picture"
    assert Shape(form="circle").fits(Shape("red", "circle", "at the top left"))
    assert not Shape("blue", "circle").fits(Shape("red", "circle", "at the top left"))
