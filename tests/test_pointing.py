"""The pointing game on captions and boxes that a person can check."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.captioner import Captioner
from captioner.query import Query
from captioner.results import Caption, Word
from captioner.tokens import tokenize
from eval.__main__ import main
from eval.answer_pointing import load_question_boxes
from eval.pointing import Boxed, chance, hits, inside, load_boxes, peak
from eval.questions import load_questions
from training.scenes import draw_splits

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)


def looks(row, column, rows=2, columns=4):
    """A map whose peak is in one cell."""
    attention = np.full((rows, columns), 0.05, np.float32)
    attention[row, column] = 0.65
    return attention


def said(*words):
    """A caption of (word, map) pairs."""
    return Caption("", -1.0, -1.0, tuple(Word(text, -0.1, attention) for text, attention in words))


def boxed(**boxes):
    return Boxed(1, Path("1.png"), {tuple(name.split("_")): own for name, own in boxes.items()})


def test_the_peak_is_the_middle_of_its_cell():
    assert peak(looks(0, 0)) == (0.125, 0.25)
    assert peak(looks(1, 3)) == (0.875, 0.75)


def test_a_word_hits_where_its_peak_is_in_any_of_its_boxes():
    dog = said(("a", looks(0, 0)), ("dog", looks(1, 3)))
    assert hits(dog, boxed(dog=[RIGHT])) == [True]
    assert hits(dog, boxed(dog=[LEFT])) == [False]
    assert hits(dog, boxed(dog=[LEFT, RIGHT])) == [True]
    assert hits(dog, boxed(cat=[RIGHT])) == []
    assert hits(dog, boxed(dog=[(0.0, 0.0, 1.0, 0.5)])) == [False]  # the right column, but the other row


def test_a_name_of_two_words_counts_at_its_last_word_where_they_follow_each_other():
    red_dog = said(("red", looks(0, 0)), ("dog", looks(0, 3)))
    assert hits(red_dog, boxed(red_dog=[RIGHT])) == [True]
    assert hits(red_dog, boxed(red_dog=[LEFT])) == [False]
    apart = said(("red", looks(0, 0)), ("and", looks(0, 0)), ("dog", looks(0, 3)))
    assert hits(apart, boxed(red_dog=[RIGHT])) == []
    assert hits(said(("dog", looks(0, 3))), boxed(red_dog=[RIGHT])) == []


def test_every_mention_counts():
    twice = said(("dog", looks(0, 0)), ("and", looks(0, 0)), ("dog", looks(0, 3)))
    assert hits(twice, boxed(dog=[RIGHT])) == [False, True]
    assert hits(twice, boxed(dog=[RIGHT], **{"and": [LEFT]})) == [False, True, True]


def test_chance_is_the_share_of_the_picture_in_boxes():
    pictures = [boxed(dog=[(0, 0, 0.5, 0.5)], cat=[LEFT]), boxed(dog=[LEFT, RIGHT, LEFT])]
    assert chance(pictures) == pytest.approx((0.25 + 0.5 + 1.0) / 3)


def document():
    return {
        "images": [
            {"id": 7, "file_name": "7.png", "width": 200, "height": 100},
            {"id": 8, "file_name": "8.png", "width": 10, "height": 10},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [50, 25, 100, 50]},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 200, 100]},
        ],
        "categories": [{"id": 3, "name": "Traffic light"}],
    }


def write(folder, content):
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_boxes_are_shares_of_the_picture_by_the_tokens_of_their_category(tmp_path):
    (picture,) = load_boxes(write(tmp_path, document()), Path("p"))  # the picture without a box is not there
    assert picture == Boxed(7, Path("p/7.png"), {("traffic", "light"): [(0.25, 0.25, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0)]})


@pytest.mark.parametrize("missing", ["images", "annotations", "categories"])
def test_a_file_without_instances_is_named(tmp_path, missing):
    content = document()
    del content[missing]
    with pytest.raises(ValueError, match=rf"instances\.json: no instances in COCO's layout: '{missing}' is missing"):
        load_boxes(write(tmp_path, content), Path("p"))
    with pytest.raises(ValueError, match=r"instances\.json: not JSON"):
        load_boxes(write(tmp_path, "{"), Path("p"))


@pytest.fixture
def scenes(tmp_path):
    """A few scenes; every picture's one category is a word that the model says about it, its box a half."""

    def make(bundle, box):
        draw_splits(tmp_path, {"val": 4})
        captioner = Captioner.load(bundle, threads=1)
        content = json.loads((tmp_path / "instances_val.json").read_text())
        content["annotations"], content["categories"] = [], []
        for n, image in enumerate(content["images"]):
            # As the command does it, all pictures in one batch.
            pixels_BHW3 = np.stack([captioner.pixels(tmp_path / "val" / i["file_name"]) for i in content["images"]])
            best = captioner.search(captioner.encode(pixels_BHW3), captioner.bundle.search)[n][0]
            word = next(word.text for word in best.words if tokenize(word.text) == [word.text])
            content["categories"].append({"id": n, "name": word})
            content["annotations"].append({"id": n, "image_id": image["id"], "category_id": n, "bbox": box})
        return ["--instances", str(write(tmp_path, content)), "--pictures", str(tmp_path / "val")]

    return make


@pytest.mark.parametrize(("box", "share", "said"), [([0, 0, 64, 64], 1.0, "100.0%"), ([0, 0, 0, 0], 0.0, "0.0%")])
def test_command(tiny_bundle, scenes, tmp_path, capsys, box, share, said):
    flags = scenes(tiny_bundle, box)
    assert main(["pointing", "--bundle", str(tiny_bundle), *flags, "--out", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert f"{said} of " in printed
    assert f"a random point would hit {said}" in printed
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["share"], result["chance"]) == (share, share)
    assert result["named"] >= 4
    assert result["instances"] == "instances.json"


def test_a_broken_picture_is_left_out(tiny_bundle, scenes, tmp_path, capsys):
    flags = scenes(tiny_bundle, [0, 0, 64, 64])
    broken = min((tmp_path / "val").glob("*.png"))
    with Image.open(broken) as picture:
        picture.crop((0, 0, 1, 1)).save(tmp_path / "one.png")
    broken.write_bytes((tmp_path / "one.png").read_bytes()[:40])
    assert main(["pointing", "--bundle", str(tiny_bundle), *flags]) == 0
    assert f"warning: {broken.name} is left out" in capsys.readouterr().err


def test_command_refuses_a_model_without_attention_and_pictures_without_boxes(
    tiny_bundle, tiny_bundle_inject, tmp_path, capsys
):
    content = {**document(), "annotations": []}
    flags = ["--instances", str(write(tmp_path, content)), "--pictures", str(tmp_path)]
    assert main(["pointing", "--bundle", str(tiny_bundle_inject), *flags]) == 1
    assert "has no attention to point with" in capsys.readouterr().err
    assert main(["pointing", "--bundle", str(tiny_bundle), *flags]) == 1
    assert "no picture has a box" in capsys.readouterr().err


@pytest.fixture
def asked(tmp_path):
    """Questions about four scenes; the model's peak for the first question of each lies in its box, for others not."""

    def make(bundle):
        draw_splits(tmp_path, {"val": 4})
        images = json.loads((tmp_path / "instances_val.json").read_text())["images"]
        captioner = Captioner.load(bundle, threads=1)
        # As the command does it, all pictures in one batch.
        grid_BPC = captioner.encode(np.stack([captioner.pixels(tmp_path / "val" / i["file_name"]) for i in images]))
        texts = ("what colour is the dog", "is the dog red", "how many")
        queries = [Query(text, 1) for _ in images for text in texts[:2]]
        answers = captioner.answer_batch(grid_BPC, queries, [n for n in range(4) for _ in range(2)])
        questions, annotations = [], []
        for n, image in enumerate(images):
            for k, text in enumerate(texts):
                number = {"question_id": 3 * n + k, "image_id": image["id"]}
                questions.append({**number, "question": text})
                kind = {"question_type": ("colour", "yes/no", "count")[k], "answer_type": "other"}
                annotations.append({**number, **kind, "answers": [{"answer": "red"}]})
                if k < 2:
                    x, y = (64 * place for place in peak(answers[2 * n + k].attention))
                    annotations[-1]["box"] = [x - 8, y - 8, 16, 16] if k == 0 else [(x + 24) % 56, y, 8, 8]
        (tmp_path / "q.json").write_text(json.dumps({"images": images, "questions": questions}))
        (tmp_path / "a.json").write_text(json.dumps({"annotations": annotations}))
        files = ["--questions", str(tmp_path / "q.json"), "--annotations", str(tmp_path / "a.json")]
        return ["pointing", "--bundle", str(bundle), *files, "--pictures", str(tmp_path / "val")]

    return make


def test_answers_point_by_question_type(tiny_bundle_answers, asked, tmp_path, capsys):
    flags = asked(tiny_bundle_answers)
    assert main([*flags, "--out", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["per_question_type"] == {
        "colour": {"questions": 4, "share": 1.0, "chance": 1 / 16},
        "yes/no": {"questions": 4, "share": 0.0, "chance": 1 / 64},
    }
    assert (result["questions"], result["share"], result["chance"]) == (8, 0.5, (1 / 16 + 1 / 64) / 2)
    assert result["annotations"] == "a.json"
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert rows == [["all", "8", "50.0%", "3.9%"], ["colour", "4", "100.0%", "6.2%"], ["yes/no", "4", "0.0%", "1.6%"]]
    assert main([*flags, "--limit", "1", "--out", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["questions"] == 2


def test_pictures_and_questions_that_cannot_be_used_are_left_out(tiny_bundle_answers, asked, tmp_path, capsys):
    flags = asked(tiny_bundle_answers)
    document = json.loads((tmp_path / "q.json").read_text())
    document["questions"][3]["question"] = "?"
    (tmp_path / "q.json").write_text(json.dumps(document))
    min((tmp_path / "val").glob("*.png")).write_bytes(b"")
    assert main([*flags, "--out", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["questions"] == 5
    warnings = capsys.readouterr().err
    assert "question 3 is left out: the question has no words" in warnings
    assert "the photo is empty" in warnings


def test_an_edge_is_inside():
    assert inside((0.5, 0.25), [RIGHT])
    assert not inside((0.49, 0.25), [RIGHT])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda q, a: q.pop("images"), r"boxes need the pictures' sizes: images is missing"),
        (lambda q, a: q["images"][0].pop("width"), r"images\[0\]\.width is missing"),
        (lambda q, a: a["annotations"][0].update(box=[1, 2, 3]), r"annotations\[0\]\.box must be 4 numbers"),
        (lambda q, a: a["annotations"][0].pop("box"), "no annotation has a box"),
    ],
)
def test_wrong_boxes_are_named(tmp_path, change, complaint):
    questions = {
        "images": [{"id": 1, "file_name": "1.png", "width": 20, "height": 10}],
        "questions": [{"question_id": 5, "image_id": 1, "question": "what"}],
    }
    kind = {"question_type": "a", "answer_type": "b", "answers": [{"answer": "red"}]}
    annotations = {"annotations": [{"question_id": 5, "image_id": 1, **kind, "box": [5, 2, 10, 5]}]}

    def load():
        for name, content in (("q.json", questions), ("a.json", annotations)):
            (tmp_path / name).write_text(json.dumps(content))
        files = tmp_path / "q.json", tmp_path / "a.json"
        return load_question_boxes(load_questions(*files, tmp_path, "{image_id}.png"))

    assert load() == {5: (0.25, 0.2, 0.5, 0.5)}
    change(questions, annotations)
    with pytest.raises(ValueError, match=complaint):
        load()


def test_flags_of_answers_that_point(tiny_bundle, asked, tiny_bundle_answers, capsys):
    flags = asked(tiny_bundle_answers)
    assert main([*flags, "--bundle", str(tiny_bundle)]) == 1
    assert "has no answerer with attention to point with" in capsys.readouterr().err
    assert main([*flags, "--instances", "i.json"]) == 1
    assert "--questions has its boxes in --annotations" in capsys.readouterr().err
    assert main(["pointing", "--bundle", str(tiny_bundle), "--pictures", "val"]) == 1
    assert "give --instances, for captions, or --questions" in capsys.readouterr().err
