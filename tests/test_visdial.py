"""The reader of visual dialogs: one question for each round, with what was said before."""

from itertools import pairwise
from pathlib import Path

import pytest

from eval.coco import CocoPicture
from eval.questions import Question
from eval.visdial import load_visdial
from tests.tiny_visdial import dense, visdial, write

NAMING = "VisualDialog_val2018_{image_id:012d}.jpg"


def load(folder, document=None, annotations=None, naming=NAMING):
    annotations = None if annotations is None else write(folder, "dense.json", annotations)
    return load_visdial(write(folder, "dialogs.json", document or visdial()), folder, naming, annotations)


def test_each_round_is_a_question_with_the_rounds_before_it(tmp_path):
    split = load(tmp_path, visdial(rounds=2))
    seven, four = (tmp_path / f"VisualDialog_val2018_00000000000{n}.jpg" for n in (7, 4))
    of_seven, of_four = "caption of picture 7", "caption of picture 4"
    straight = ("yes", "no", "2", "brown", "i can't tell")
    turned = ("no", "2", "brown", "i can't tell", "yes")
    assert split.questions == (
        Question(0, 7, seven, "is it sunny", ("yes",), context=of_seven, choices=straight, correct_choice=0),
        Question(
            1, 7, seven, "how many people are there", ("2",), "", "", (("is it sunny", "yes"),), of_seven, turned, 1
        ),
        Question(2, 4, four, "how many people are there", ("no",), context=of_four, choices=straight, correct_choice=1),
        Question(
            3, 4, four, "what color is the dog", ("brown",), "", "", (("how many people are there", "no"),), of_four,
            turned, 2,
        ),
    )  # fmt: skip
    assert split.pictures == (CocoPicture(7, seven, ()), CocoPicture(4, four, ()))
    assert (split.questions_file.name, split.annotations_file, split.annotations) == ("dialogs.json", None, ())


def test_the_history_grows_by_a_pair_each_round(tmp_path):
    questions = load(tmp_path, visdial((7,), rounds=4)).questions
    assert [len(question.history) for question in questions] == [0, 1, 2, 3]
    for before, after in pairwise(questions):
        assert after.history == (*before.history, (before.text, before.answers[0]))
    assert all(question.choices[question.correct_choice] == question.answers[0] for question in questions)


def test_a_test_dialog_ends_with_the_question(tmp_path):
    questions = load(tmp_path, visdial((7, 4), test=True)).questions
    assert [(q.image_id, q.answers, len(q.choices), q.correct_choice) for q in questions] == [
        (7, (), 5, None),  # one round, open
        (4, ("no",), 0, None),  # two rounds, the first answered
        (4, (), 5, None),
    ]
    assert questions[2].history == (("how many people are there", "no"),)


@pytest.mark.parametrize("name", ["gt_relevance", "relevance"])
def test_dense_annotations_belong_to_one_round(tmp_path, name):
    document = visdial(rounds=2)
    split = load(tmp_path, document, dense(document, name))
    # The last rounds; their right answers are at 1 and 2, see above.
    assert [question.relevance for question in split.questions] == [(), (0, 1, 0.5, 0, 0), (), (0, 0, 1, 0.5, 0)]
    assert split.annotations_file.name == "dense.json"


def test_the_first_pattern_that_names_a_file_counts(tmp_path):
    for name in ("train/7.jpg", "val/7.jpg", "val/4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    naming = ["train/{image_id}.jpg", "val/{image_id}.jpg"]
    split = load(tmp_path, visdial((7, 4, 9)), naming=naming)
    found = [str(picture.path.relative_to(tmp_path)) for picture in split.pictures]
    assert found == ["train/7.jpg", "val/4.jpg", "train/9.jpg"]  # of picture 9 there is no file


@pytest.mark.parametrize(("naming", "complaint"), [((), "got none"), ("{id}.jpg", "naming"), (["7.jpg"], "image id")])
def test_patterns_that_name_no_picture(tmp_path, naming, complaint):
    with pytest.raises(ValueError, match=complaint):
        load(tmp_path, naming=naming)


def turn(n, **fields):
    return lambda d: d["data"]["dialogs"][0]["dialog"][n].update(fields)


def turn_without(n, name):
    return lambda d: d["data"]["dialogs"][0]["dialog"][n].pop(name)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.pop("data"), "data is missing"),
        (lambda d: d["data"].update(answers=None), r"data\.answers must be a list, got None"),
        (lambda d: d["data"].update(questions=["a", 1]), r"data\.questions\[1\] must be a string, got 1"),
        (lambda d: d["data"].update(dialogs=[]), r"data\.dialogs has no question"),
        (lambda d: d["data"]["dialogs"].append(3), r"data\.dialogs\[2\] must be an object, got int"),
        (lambda d: d["data"]["dialogs"][1].update(image_id=7), r"data\.dialogs\[1\]\.image_id 7 is in the file twice"),
        (lambda d: d["data"]["dialogs"][1].pop("caption"), r"data\.dialogs\[1\]\.caption is missing"),
        (lambda d: d["data"]["dialogs"][1].update(dialog={}), r"data\.dialogs\[1\]\.dialog must be a list"),
        (turn(1, question=4), r"dialogs\[0\]\.dialog\[1\]\.question must be an index below 4, got 4"),
        (turn(1, question=-1), r"dialogs\[0\]\.dialog\[1\]\.question must be an index below 4, got -1"),
        (turn(1, answer="no"), r"dialogs\[0\]\.dialog\[1\]\.answer must be an integer, got 'no'"),
        (turn(2, answer_options=[0, 5]), r"dialog\[2\]\.answer_options\[1\] must be an index below 5, got 5"),
        (turn(2, answer_options=[True]), r"dialog\[2\]\.answer_options\[0\] must be an index below 5, got True"),
        (turn(2, gt_index=5), r"dialog\[2\]\.gt_index must be an index below 5, got 5"),
        (turn_without(2, "answer_options"), r"dialog\[2\]\.gt_index must be an index below 0, got"),
        (turn_without(1, "answer"), r"dialog\[1\]\.answer is missing"),
        (lambda d: d["data"]["dialogs"][0]["dialog"].insert(0, "hello"), r"dialog\[0\] must be an object, got str"),
    ],
)
def test_mistakes_in_dialogs_name_file_entry_and_field(tmp_path, change, complaint):
    document = visdial()
    change(document)
    with pytest.raises(ValueError, match=rf"dialogs\.json: .*{complaint}"):
        load(tmp_path, document)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a[0].update(image_id=5), r"\[0\]: round 3 of picture 5 is not among the dialogs"),
        (lambda a: a[0].update(round_id=0), r"\[0\]: round 0 of picture 7 is not among the dialogs"),
        (lambda a: a[0].pop("round_id"), r"\[0\]\.round_id is missing"),
        (lambda a: a.append(a[0]), r"\[2\]: round 3 of picture 7 is in the file twice"),
        (lambda a: a[1].pop("gt_relevance"), r"\[1\]\.relevance is missing"),
        (lambda a: a[1]["gt_relevance"].pop(), r"\[1\]\.gt_relevance must have one entry for each of 5 choices, got 4"),
        (
            lambda a: a[1]["gt_relevance"].__setitem__(2, 1.5),
            r"\[1\]\.gt_relevance\[2\] must be a number in \[0, 1\], got 1.5",
        ),
        (
            lambda a: a[1]["gt_relevance"].__setitem__(0, "1"),
            r"\[1\]\.gt_relevance\[0\] must be a number in \[0, 1\], got '1'",
        ),
        (lambda a: a.insert(0, None), r"\[0\] must be an object, got NoneType"),
    ],
)
def test_mistakes_in_dense_annotations_name_file_entry_and_field(tmp_path, change, complaint):
    annotations = dense(visdial())
    change(annotations)
    with pytest.raises(ValueError, match=rf"dense\.json: {complaint}"):
        load(tmp_path, visdial(), annotations)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: cannot be read: No such file"):
        load_visdial(tmp_path / "none.json", Path("p"), NAMING)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/none\.json: cannot be read: No such file"):
        load_visdial(write(tmp_path, "dialogs.json", visdial()), tmp_path, NAMING, tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"dense\.json: the file must be a list, got {}"):
        load(tmp_path, visdial(), {})
