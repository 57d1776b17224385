"""The one reader of question sets: VQA v1 and v2, and sets written like them."""

import json
from pathlib import Path

import pytest

from eval.coco import CocoPicture
from eval.metrics.vqa import vqa_accuracy
from eval.questions import Question, load_questions, pattern


def write(folder, name, document):
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def questions():
    return {
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "questions": [
            {"question_id": 70, "image_id": 7, "question": "What is it?"},
            {"question_id": 40, "image_id": 4, "question": "Is it red?"},
            {"question_id": 71, "image_id": 7, "question": "How many?"},
        ],
    }


def annotation(question_id, image_id, people, answer_type="other", question_type="what is"):
    answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": n + 1} for n, answer in enumerate(people)]
    kinds = {"question_type": question_type, "answer_type": answer_type}
    most = max(people, key=people.count)
    return {
        "question_id": question_id,
        "image_id": image_id,
        "answers": answers,
        "multiple_choice_answer": most,
        **kinds,
    }


def annotations():
    """Not in the order of the questions."""
    return {
        "annotations": [
            annotation(40, 4, ["yes", "Yes", "no"], "yes/no", "is it"),
            annotation(71, 7, ["2", "2", "3"], "number", "how many"),
            annotation(70, 7, ["a cat", "cat", "cat"]),
        ]
    }


def load(folder, asked=None, answered=None, naming=None):
    answered = None if answered is None else write(folder, "annotations.json", answered)
    return load_questions(write(folder, "questions.json", asked or questions()), answered, Path("p"), naming)


def test_questions_keep_their_order_and_find_their_answers(tmp_path):
    split = load(tmp_path, answered=annotations())
    seven, four = Path("p/COCO_val2014_000000000007.jpg"), Path("p/COCO_val2014_000000000004.jpg")
    assert split.questions == (
        Question(70, 7, seven, "What is it?", ("a cat", "cat", "cat"), "what is", "other"),
        Question(40, 4, four, "Is it red?", ("yes", "Yes", "no"), "is it", "yes/no"),
        Question(71, 7, seven, "How many?", ("2", "2", "3"), "how many", "number"),
    )
    assert split.pictures == (CocoPicture(7, seven, ()), CocoPicture(4, four, ()))
    assert (split.questions_file.name, split.annotations_file.name) == ("questions.json", "annotations.json")


def test_the_annotations_are_what_the_metric_takes(tmp_path):
    split = load(tmp_path, answered=annotations())
    assert list(split.annotations) == annotations()["annotations"]
    # "2": two of three people, 1/3 or 2/3 of the three that count (0 + 1/3 for themselves, 2/3 for the third).
    found = vqa_accuracy({70: "dog", 40: "maybe", 71: "2"}, split.annotations)
    assert found.per_question[71] == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)


def test_a_test_set_has_no_answers(tmp_path):
    split = load(tmp_path)
    assert [question.answers for question in split.questions] == [(), (), ()]
    assert [question.question_type for question in split.questions] == ["", "", ""]
    assert (split.annotations_file, split.annotations) == (None, ())


@pytest.mark.parametrize(
    ("subtype", "name"),
    [
        ("train2014", "COCO_train2014_000000000007.jpg"),
        ("test2015", "COCO_test2015_000000000007.jpg"),
        ("test-dev2015", "COCO_test2015_000000000007.jpg"),
        ("val2017", "000000000007.jpg"),
    ],
)
def test_coco_s_own_names(tmp_path, subtype, name):
    split = load(tmp_path, {**questions(), "data_subtype": subtype})
    assert split.questions[0].path == Path("p") / name


@pytest.mark.parametrize(
    ("naming", "name"),
    [
        ("image{image_id}.jpg", "image7.jpg"),
        ("{image_id}.png", "7.png"),
        ("COCO_val2014_{image_id:012d}.jpg", "COCO_val2014_000000000007.jpg"),
        ("val/{image_id:>03}.jpg", "val/007.jpg"),
    ],
)
def test_naming_goes_before_everything_else(tmp_path, naming, name):
    listed = {**questions(), "images": [{"id": 7, "file_name": "seven.png"}]}
    assert load(tmp_path, listed, naming=naming).questions[0].path == Path("p") / name


def test_a_list_of_images_names_the_pictures(tmp_path):
    asked = {**questions(), "images": [{"id": 4, "file_name": "four.png"}, {"id": 7, "file_name": "seven.png"}]}
    assert [q.path.name for q in load(tmp_path, asked).questions] == ["seven.png", "four.png", "seven.png"]
    asked["images"].pop()
    with pytest.raises(ValueError, match=r"questions\.json: questions\[0\]: image_id 7 is not among images"):
        load(tmp_path, asked)
    asked["images"].append({"id": 4, "file_name": "again.png"})
    with pytest.raises(ValueError, match=r"images\[1\]\.id 4 is in the file twice"):
        load(tmp_path, asked)


@pytest.mark.parametrize(
    "naming",
    [
        "image.jpg",
        "{id}.jpg",
        "{}.jpg",
        "{image_id",
        "{image_id:zz}",
        "{image_id.name}",
        "{image_id[0]}",
        "{image_id}{x}",
    ],
)
def test_patterns_that_name_no_picture(tmp_path, naming):
    with pytest.raises(ValueError, match="naming"):
        load(tmp_path, naming=naming)
    with pytest.raises(ValueError, match="naming"):
        pattern(naming)


@pytest.mark.parametrize(
    "header",
    [
        {"data_subtype": "train"},
        {"data_subtype": None},
        {"data_type": "abstract_v002", "data_subtype": "train2015"},
        {"data_subtype": "val2014-extra"},
        {"data_subtype": 2014},
    ],
)
def test_other_sets_need_naming(tmp_path, header):
    with pytest.raises(ValueError, match=r"questions\.json: the names of the pictures are not known .* give naming"):
        load(tmp_path, {**questions(), **header})


def test_multiple_choice_of_vqa_v1(tmp_path):
    asked = questions()
    for question in asked["questions"]:
        question["multiple_choices"] = ["dog", "cat", "yes"]
    split = load(tmp_path, asked, annotations())
    assert [question.choices for question in split.questions] == [("dog", "cat", "yes")] * 3
    assert [question.correct_choice for question in split.questions] == [1, 2, None]  # cat, yes, 2
    assert [question.correct_choice for question in load(tmp_path, asked).questions] == [None] * 3


def without(name):
    def change(record):
        del record[name]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without("questions"), "questions is missing"),
        (lambda d: d.update(questions={}), "questions must be a list, got {}"),
        (lambda d: d.update(questions=[]), "questions is empty"),
        (lambda d: d["questions"].append([]), r"questions\[3\] must be an object, got list"),
        (lambda d: without("question")(d["questions"][1]), r"questions\[1\]\.question is missing"),
        (lambda d: d["questions"][1].update(question=None), r"questions\[1\]\.question must be a string, got None"),
        (lambda d: d["questions"][1].update(image_id="4"), r"questions\[1\]\.image_id must be an integer, got '4'"),
        (lambda d: d["questions"][2].update(question_id=True), r"questions\[2\]\.question_id must be an integer"),
        (lambda d: d["questions"][2].update(question_id=70), r"questions\[2\]\.question_id 70 is in the file twice"),
        (lambda d: d["questions"][0].update(multiple_choices="a"), r"questions\[0\]\.multiple_choices must be a list"),
        (
            lambda d: d["questions"][0].update(multiple_choices=["a", 2]),
            r"questions\[0\]\.multiple_choices\[1\] must be a string, got 2",
        ),
        (lambda d: d.update(images={}), "images must be a list"),
        (lambda d: d.update(images=[{"id": 7}]), r"images\[0\]\.file_name is missing"),
    ],
)
def test_mistakes_in_questions_name_file_entry_and_field(tmp_path, change, complaint):
    document = questions()
    change(document)
    path = write(tmp_path, "questions.json", document)
    with pytest.raises(ValueError, match=rf"questions\.json: {complaint}"):
        load_questions(path, None, Path("p"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.clear(), "question 70 has no annotation"),
        (lambda a: a.pop(), "question 70 has no annotation"),
        (lambda a: a.append(annotation(9, 7, ["x"])), r"annotations\[3\]\.question_id 9 is not among the questions"),
        (lambda a: a.append(a[0]), r"annotations\[3\]\.question_id 40 is in the file twice"),
        (lambda a: a.append("x"), r"annotations\[3\] must be an object, got str"),
        (lambda a: a[0].update(image_id=7), r"annotations\[0\]\.image_id is 7, but its question is about picture 4"),
        (lambda a: a[1].update(answers=[]), r"annotations\[1\]\.answers is empty"),
        (lambda a: a[1]["answers"].append({}), r"annotations\[1\]\.answers\[3\]\.answer is missing"),
        (
            lambda a: a[1]["answers"][0].update(answer=2),
            r"annotations\[1\]\.answers\[0\]\.answer must be a string, got 2",
        ),
        (lambda a: without("question_type")(a[2]), r"annotations\[2\]\.question_type is missing"),
        (lambda a: a[2].update(answer_type=None), r"annotations\[2\]\.answer_type must be a string, got None"),
    ],
)
def test_mistakes_in_annotations_name_file_entry_and_field(tmp_path, change, complaint):
    document = annotations()
    change(document["annotations"])
    with pytest.raises(ValueError, match=rf"annotations\.json: {complaint}"):
        load(tmp_path, answered=document)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "not JSON"), ("[]", "the file must be an object, got list"), ("{}", "questions is missing")],
)
def test_not_questions_at_all(tmp_path, text, complaint):
    with pytest.raises(ValueError, match=rf"questions\.json: {complaint}"):
        load(tmp_path, text)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: cannot be read: No such file"):
        load_questions(tmp_path / "none.json", None, Path("p"))
    with pytest.raises(ValueError, match=r"none\.json: cannot be read: No such file"):
        load_questions(write(tmp_path, "questions.json", questions()), tmp_path / "none.json", Path("p"))


@pytest.mark.parametrize(
    ("name", "split", "naming", "counts"),
    [
        ("daquar", "val", "image{image_id}.jpg", (789, 94)),
        ("easy_vqa", "test", "{image_id}.png", (9673, 1000)),
    ],
)
def test_real_files(shared, name, split, naming, counts):
    folder = shared / "data" / name
    files = folder / f"questions_{split}.json", folder / f"annotations_{split}.json"
    found = load_questions(*files, folder / split, naming)
    assert (len(found.questions), len(found.pictures)) == counts
    assert all(picture.path.is_file() for picture in found.pictures)
    assert all(len(question.answers) == 10 for question in found.questions)
    right = {question.question_id: question.answers[0] for question in found.questions}
    assert vqa_accuracy(right, found.annotations).overall == 1
    with pytest.raises(ValueError, match="give naming"):
        load_questions(*files, folder / split)
