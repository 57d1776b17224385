"""Questions from captions: right English, right answers, nothing where the captions differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("nltk")

from training.caption_questions.__main__ import main, summary
from training.caption_questions.balance import MIN_COUNT, balanced
from training.caption_questions.clauses import clauses
from training.caption_questions.lexicon import COLOURS, PLACES, ROLES, THINGS, VERBS
from training.caption_questions.phrases import MANY, noun_phrase, noun_phrases
from training.caption_questions.rules import KINDS, Question, picture_questions
from training.caption_questions.tagger import tag

ROOT = Path(__file__).parents[1]
FLICKR8K = ROOT.parent / "shared" / "data" / "flickr8k"


def asked(*captions: str) -> set[tuple[str, str, str]]:
    return {(q.kind, q.text, q.answer) for q in picture_questions(captions)}


@pytest.mark.parametrize(
    ("caption", "question"),
    [
        ("A dog runs on the beach .", ("object", "What is running on the beach?", "dog")),
        ("A dog running on grass .", ("object", "What is running on the grass?", "dog")),
        ("A dog is running on the beach .", ("place", "Where is the dog running?", "beach")),
        ("There is a boy sitting on a bench .", ("object", "What is the boy sitting on?", "bench")),
        ("A man in a red hat is holding a guitar .", ("object", "What is the man in the red hat holding?", "guitar")),
        ("A man in a red hat is holding a guitar .", ("object", "Who is holding the guitar?", "man")),
        ("A man in a red hat is holding a guitar .", ("colour", "What is the colour of the hat?", "red")),
        (
            "A brown dog carries a stick in its mouth",
            ("object", "What is the brown dog carrying in its mouth?", "stick"),
        ),
        ("Two dogs play in the snow .", ("number", "How many dogs are playing in the snow?", "2")),
        ("Two dogs play in the snow .", ("place", "Where are the two dogs playing?", "snow")),
        ("A woman lays on a couch .", ("object", "What is the woman lying on?", "couch")),
        ("A boy stands in a parking lot .", ("place", "Where is the boy standing?", "parking lot")),
        ("A dog with a light blue collar jumps .", ("colour", "What is the colour of the collar?", "blue")),
        ("A white dog is in the water .", ("colour", "What is the colour of the dog?", "white")),
    ],
)
def test_one_caption(caption: str, question: tuple[str, str, str]) -> None:
    assert question in asked(caption)


def test_compound_sentences_come_apart() -> None:
    found = asked("A man sits on a bench and a dog is chasing a ball .")
    assert ("object", "What is the man sitting on?", "bench") in found
    assert ("object", "What is the dog chasing?", "ball") in found
    shared = asked("A boy is sitting on a couch and holding a frisbee .")
    assert ("object", "What is the boy holding?", "frisbee") in shared


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "🐕 犬 !!!",
        "Beach .",
        "A dog without a collar is not running on the beach .",  # negation
        "A zorgle flibs the plunk in a blorf .",  # unknown words
        "A dog play in snows .",  # no agreement: the tags are doubtful
        "Someone is holding something .",
        "A man rides .",
        "A black man and a white woman .",  # never the colour of people
    ],
)
def test_unsure_captions_are_skipped(caption: str) -> None:
    assert asked(caption) == set()


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("Two dogs play in the snow .", "Three dogs play in the snow .", "number"),
        ("Two dogs play in the snow .", "A dog plays in the snow .", "number"),
        ("Two people sit on a bench .", "Several people sit on a bench .", "number"),
        ("Two people sit on a bench .", "Three men sit on a bench .", "number"),
        ("A man in a red hat runs .", "A man in a blue hat runs .", "colour"),
        ("A black dog runs .", "A black and white dog runs .", "colour"),
        ("A boy in a red hat runs .", "Two boys are running .", "colour"),
        ("A dog runs on the beach .", "A dog runs in the snow .", "place"),
        ("A man holds a guitar .", "A man holds a ball .", "object"),
        ("A man holds a guitar .", "A woman holds a guitar .", "object"),
    ],
)
def test_nothing_is_asked_on_which_captions_differ(one: str, other: str, kind: str) -> None:
    both = {answer for k, _, answer in asked(one, other) if k == kind}
    disputed = {answer for k, _, answer in asked(one) if k == kind} ^ {a for k, _, a in asked(other) if k == kind}
    assert disputed
    assert not both & disputed


def test_one_needs_three_who_say_so() -> None:
    said = ["A dog runs .", "A dog jumps .", "A brown dog plays ."]
    assert ("number", "How many dogs are running?", "1") in asked(*said)
    assert not any(kind == "number" for kind, _, _ in asked(*said[:2]))
    assert not any(kind == "number" for kind, _, _ in asked(*said, "A dog chases another dog ."))


def test_words_for_the_same_thing_have_one_answer() -> None:
    assert {a for _, q, a in asked("A lady sits on a sofa .") if q.startswith("What")} == {"couch"}
    assert {a for _, q, a in asked("A terrier runs on grass .") if q.startswith("What is running")} == {"dog"}


def test_tags_follow_the_neighbours() -> None:
    def tags(text: str) -> list[str]:
        return [token.tag for token in tag(text)]

    assert tags("a dog jumps") == ["DT", "NN", "VBZ"]
    assert tags("the high jumps") == ["DT", "JJ", "NNS"]
    assert tags("two dogs play .") == ["CD", "NNS", "VBP"]
    assert tags("a school dance") == ["DT", "NN", "NN"]
    assert [t.word for t in tag("Next to a parking lot")] == ["next-to", "a", "parking-lot"]


def test_noun_phrases() -> None:
    group, bench = noun_phrases(tag("a large group of young men on the wooden bench"))
    assert (group.head, group.plural, group.number, group.definite) == (
        "man",
        True,
        MANY,
        "the large group of young men",
    )
    assert (bench.head, bench.number, bench.definite) == ("bench", 1, "the wooden bench")
    dog = noun_phrase(tag("a black and white dog"), 0)
    assert dog is not None
    assert dog.colours == ("black", "white")
    assert noun_phrase(tag("another dog"), 0) is None


def test_a_participle_after_an_animal_is_not_the_subject_s() -> None:
    verbs = [clause.verb for clause in clauses(tag("A man watches a dog running ."))]
    assert verbs == ["watch"]


def questions(answer: str, pictures: range) -> dict[int, list[Question]]:
    return {n: [Question("object", f"What is {n}?", answer)] for n in pictures}


def test_rare_answers_go_and_common_ones_are_capped() -> None:
    pool = questions("dog", range(500)) | questions("cat", range(500, 540)) | questions("yak", range(540, 544))
    kept = Counter(q.answer for of_picture in balanced(pool, 600, 0).values() for q in of_picture)
    # 600 pictures: K = 10 free, then exp(-(n - 10) / 20): about 10 + 20 ln(1 + 490 / 20) = 75 of the 500.
    assert 55 <= kept["dog"] <= 95
    assert 20 <= kept["cat"] <= 40
    assert kept["yak"] == 0
    assert MIN_COUNT == 5


def test_known_answers_decide_for_another_split() -> None:
    pool = questions("dog", range(3)) | questions("yak", range(3, 30))
    kept = balanced(pool, 6000, 0, known={"dog"})
    assert sorted(kept) == [0, 1, 2]


def test_one_question_per_picture_and_answer() -> None:
    pool = {
        n: [Question("object", "What is running?", "dog"), Question("object", "What is barking?", "dog")]
        for n in range(9)
    }
    assert all(len(of_picture) == 1 for of_picture in balanced(pool, 6000, 0).values())


def test_the_seed_decides() -> None:
    pool = questions("dog", range(500))
    assert balanced(pool, 600, 3) == balanced(pool, 600, 3)
    assert balanced(pool, 600, 3) != balanced(pool, 600, 4)


def test_summary_counts_by_hand() -> None:
    pool = {1: [Question("colour", "?", "red"), Question("object", "?", "dog")], 2: [Question("colour", "?", "red")]}
    rows = {row[0]: row[1:] for row in summary(pool)}
    assert rows["colour"] == ["2", "2", "1", "red", "100.0"]
    assert rows["place"] == ["0", "0", "0", "", ""]
    assert rows["all"] == ["3", "2", "2", "red", "66.7"]


def write_captions(path: Path, pictures: int) -> None:
    """Each picture with a dog on a beach, every second with a boy who holds a ball."""
    images = [{"id": 7 * n, "file_name": f"photo_{n:03d}.jpg"} for n in range(pictures)]
    texts = [["A brown dog runs on the beach ."] + ["A boy is holding a ball ."] * (n % 2) for n in range(pictures)]
    annotations = [{"image_id": 7 * n, "caption": text} for n in range(pictures) for text in texts[n]]
    path.write_text(json.dumps({"images": images, "annotations": [{"id": n, **a} for n, a in enumerate(annotations)]}))


def test_files_are_vqa_v2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "captions_train.json"
    write_captions(captions, 12)
    assert main(["--captions", str(captions), "--out", str(tmp_path)]) == 0
    assert "commonest" in capsys.readouterr().out
    asked_file = json.loads((tmp_path / "questions_train.json").read_text())
    answered = json.loads((tmp_path / "annotations_train.json").read_text())
    assert asked_file["task_type"] == "Open-Ended"
    names = {image["id"]: image["file_name"] for image in asked_file["images"]}
    assert names[7] == "photo_001.jpg"
    ids = [q["question_id"] for q in asked_file["questions"]]
    assert len(ids) == len(set(ids)) > 0
    assert ids == [a["question_id"] for a in answered["annotations"]]
    for question, annotation in zip(asked_file["questions"], answered["annotations"], strict=True):
        assert set(question) == {"image_id", "question", "question_id"}
        assert question["image_id"] == annotation["image_id"]
        assert question["image_id"] in names
        assert annotation["question_type"] in KINDS
        assert annotation["answer_type"] in ("number", "other")
        assert [a["answer_id"] for a in annotation["answers"]] == list(range(1, 11))
        assert {a["answer"] for a in annotation["answers"]} == {annotation["multiple_choice_answer"]}
        assert {a["answer_confidence"] for a in annotation["answers"]} == {"yes"}


def test_validation_keeps_answers_of_training(tmp_path: Path) -> None:
    captions = tmp_path / "captions_val.json"
    write_captions(captions, 12)
    known = tmp_path / "annotations_train.json"
    known.write_text(json.dumps({"annotations": [{"multiple_choice_answer": "ball"}]}))
    assert main(["--captions", str(captions), "--out", str(tmp_path), "--answers-from", str(known)]) == 0
    written = json.loads((tmp_path / "annotations_val.json").read_text())["annotations"]
    assert {a["multiple_choice_answer"] for a in written} == {"ball"}


def test_mistakes_of_the_caller_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "captions_val.json"
    write_captions(captions, 2)
    missing = tmp_path / "none.json"
    assert main(["--captions", str(missing), "--out", str(tmp_path)]) == 2
    assert "none.json" in capsys.readouterr().err
    assert main(["--captions", str(captions), "--out", str(tmp_path), "--answers-from", str(captions)]) == 2
    assert "captions_val.json: not annotations" in capsys.readouterr().err


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    captions = tmp_path / "captions_train.json"
    write_captions(captions, 40)
    for hash_seed in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "training.caption_questions",
            "--captions",
            captions,
            "--out",
            tmp_path / hash_seed,
        ]
        subprocess.run(
            command, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed}, stdout=subprocess.DEVNULL
        )
    for name in ("questions_train.json", "annotations_train.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_nltk_is_only_loaded_to_tag() -> None:
    code = "import sys, training.caption_questions.rules; print('nltk' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "False"


SMALL_WORDS = """a an the two three 2 one some another his its is are and while who there of with in on at next to , .
    group of several dog dogs man men people boys grass running runs run holding sits jumped red shirt black"""
WORDS = st.sampled_from([*SMALL_WORDS.split(), *COLOURS, *PLACES, *ROLES, *THINGS, *VERBS])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.lists(WORDS, max_size=14).map(" ".join), st.text(max_size=40)), max_size=5))
def test_any_captions(captions: list[str]) -> None:
    for question in picture_questions(captions):
        assert question.kind in KINDS
        assert question.text.endswith("?")
        words = question.text.lower().rstrip("?").split()
        assert question.answer not in words
        assert question.text[0].isupper()


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="needs Flickr8k's captions in ../shared")
def test_flickr8k_validation(tmp_path: Path) -> None:
    command = ["--captions", str(FLICKR8K / "captions_val.json"), "--out", str(tmp_path)]
    assert main(command) == 0
    written = json.loads((tmp_path / "annotations_val.json").read_text())["annotations"]
    kinds = Counter(a["question_type"] for a in written)
    assert set(kinds) == set(KINDS)
    commonest = Counter(a["multiple_choice_answer"] for a in written).most_common(1)[0][1]
    assert commonest < 0.15 * len(written)
