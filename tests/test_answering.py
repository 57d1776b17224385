"""`python -m eval answers --bundle`: a split answered by a bundle, the files that it writes, and being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.captioner import Captioner
from captioner.query import BadQuestion, Query
from eval.__main__ import main
from eval.answer_scoring import evaluate_ranking
from eval.metrics.vqa import vqa_accuracy
from eval.questions import Question
from tests.conftest import TINY, TINY_ANSWERER, _bundle
from tests.tiny_visdial import dense, visdial

ROOT = Path(__file__).parent.parent
PICTURES = 5
TEXTS = ("What colour is the ball?", "How many dogs are there?")
PEOPLE = (["red"] * 7 + ["blue"] * 3, ["2"] * 10)


def write(path, document):
    path.write_text(json.dumps(document))
    return path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


class Split:
    """Pictures of noise and two questions about each: first the one about all of them, then the other."""

    def __init__(self, folder, pictures=PICTURES):
        random = np.random.default_rng(5)
        self.photos = folder / "photos"
        self.photos.mkdir()
        for n in range(pictures):
            blocks = Image.fromarray(random.integers(0, 256, (3, 4, 3), np.uint8))
            blocks.resize((80 + n % 5, 60), Image.Resampling.NEAREST).save(self.photos / f"image{n}.png")
        pairs = [(k, n) for k in range(2) for n in range(pictures)]
        self.questions = [{"question_id": 10 * n + k, "image_id": n, "question": TEXTS[k]} for k, n in pairs]
        self.annotations = [
            {"question_id": 10 * n + k, "image_id": n, "question_type": ("what", "how many")[k],
             "answer_type": ("other", "number")[k],
             "answers": [{"answer_id": i, "answer": answer} for i, answer in enumerate(PEOPLE[k])]}
            for k, n in pairs
        ]  # fmt: skip
        self.folder = folder
        self.save()

    def save(self):
        write(self.folder / "questions.json", {"questions": self.questions})
        write(self.folder / "annotations.json", {"annotations": self.annotations})

    def flags(self, bundle, out, *more):
        files = [f"--{name}={self.folder / name}.json" for name in ("questions", "annotations")]
        flags = [*files, f"--pictures={self.photos}", "--naming=image{image_id}.png", f"--bundle={bundle}"]
        return ["answers", *flags, f"--out={out}", "--threads=1", "--workers=0", "--batch=3", *map(str, more)]


@pytest.fixture
def split(tmp_path):
    return Split(tmp_path)


@pytest.fixture(scope="session")
def blind_bundle():
    """A bundle whose answers do not depend on the photo; read only."""
    return _bundle("blind", replace(TINY, captions=False, answerer=replace(TINY_ANSWERER, kind="question_only")))


def test_answers_are_those_of_the_captioner(tiny_bundle_answers, split, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(split.flags(tiny_bundle_answers, out, "--precision=fp32")) == 0
    captioner = Captioner.load(tiny_bundle_answers, precision="fp32", threads=1)
    expected = {
        q["question_id"]: captioner.answer(split.photos / f"image{q['image_id']}.png", q["question"])
        for q in split.questions
    }
    results = read(out / "answers.json")
    assert results == [{"question_id": n, "answer": own.answers[0].text} for n, own in expected.items()]
    accuracy = vqa_accuracy({n: own.answers[0].text for n, own in expected.items()}, split.annotations)
    for entry, (n, own) in zip(read(out / "questions.json"), expected.items(), strict=True):
        assert (entry["question_id"], entry["answer"]) == (n, own.answers[0].text)
        assert [answer["text"] for answer in entry["top"]] == [answer.text for answer in own.answers]
        assert entry["probability"] == entry["top"][0]["probability"] == pytest.approx(own.answers[0].probability, 1e-4)
        assert entry["unknown_words"] == (["ball"] if n % 10 == 0 else ["dogs"])
        assert entry["accuracy"] == accuracy.per_question[n]
    scores = read(out / "scores.json")
    assert scores["metrics"] == {"accuracy": accuracy.overall}
    assert scores["official"] == accuracy.official
    assert {name: own["accuracy"] for name, own in scores["per_question_type"].items()} == accuracy.per_question_type
    wanted = {
        "questions": 10, "pictures": 5, "errors": 0, "with_unknown_words": 1.0, "precision": "fp32",
        "annotations": "annotations.json", "results": "answers.json", "bundle": captioner.bundle.name,
        "bundle_version": captioner.bundle.version, "answerer": "attention",
    }  # fmt: skip
    assert {name: scores[name] for name in wanted} == wanted
    assert scores["questions_per_second"] == read(out / "throughput.json")["questions_per_second"] > 0
    assert {"implementation", "intervals", "intervals_are", "commit"} <= set(scores)
    assert not (out / "errors.json").exists()
    assert f"{100 * accuracy.overall:.2f}" in capsys.readouterr().out


def test_a_picture_is_encoded_once_and_a_finished_batch_never_again(
    tiny_bundle_answers, split, tmp_path, monkeypatch, capsys
):
    encoded = []
    encode, answer = Captioner.encode, Captioner.answer_batch

    def fails_at_the_second(self, *given):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return answer(self, *given)

    monkeypatch.setattr(Captioner, "encode", lambda self, p: encoded.append(len(p)) or encode(self, p))
    assert main(split.flags(tiny_bundle_answers, tmp_path / "whole")) == 0
    assert encoded == [3, 2]
    encoded.clear()
    with monkeypatch.context() as broken:
        broken.setattr(Captioner, "answer_batch", fails_at_the_second)
        assert main(split.flags(tiny_bundle_answers, tmp_path / "out")) == 130
    assert encoded == [3, 2]
    encoded.clear()
    assert main(split.flags(tiny_bundle_answers, tmp_path / "out")) == 0
    assert encoded == [2]
    assert read(tmp_path / "out" / "throughput.json")["questions"] == 4
    for name in ("answers.json", "questions.json", "journal.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert main(split.flags(tiny_bundle_answers, tmp_path / "out", "--batch=2")) == 1
    assert "batch_size was 3 and is now 2; pass --restart" in capsys.readouterr().err
    assert main(split.flags(tiny_bundle_answers, tmp_path / "out", "--batch=2", "--restart")) == 0


def test_a_killed_run_ends_as_if_it_had_not_been(tiny_bundle_answers, tmp_path):
    split = Split(tmp_path, 60)

    def start(out):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "eval", *split.flags(tiny_bundle_answers, out, "--batch=1", "--workers=1")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)

    assert start(tmp_path / "whole").wait(300) == 0
    out = tmp_path / "killed"
    journal = out / "journal.jsonl"
    process = start(out)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") >= 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    assert process.wait(60) == -signal.SIGKILL
    assert not (out / "answers.json").exists()
    assert start(out).wait(300) == 0
    for name in ("answers.json", "questions.json", "journal.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_workers_change_nothing(tiny_bundle_answers, split, tmp_path):
    (split.photos / "image3.png").write_bytes(b"not a picture")
    for workers in (0, 2):
        assert main(split.flags(tiny_bundle_answers, tmp_path / str(workers), f"--workers={workers}")) == 0
    for name in ("answers.json", "questions.json", "errors.json", "journal.jsonl"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_broken_pictures_are_rows_of_errors_until_put_right(tiny_bundle_answers, split, tmp_path, capsys):
    whole = (split.photos / "image0.png").read_bytes()
    (split.photos / "image1.png").unlink()
    (split.photos / "image4.png").write_bytes(b"")
    out = tmp_path / "out"
    assert main(split.flags(tiny_bundle_answers, out)) == 0
    assert "warning: 4 of 10 questions are not answered: see " in capsys.readouterr().err
    errors = [(e["question_id"], e["image_id"], e["file"], e["reason"]) for e in read(out / "errors.json")]
    assert errors == [
        (10, 1, "image1.png", "FILE_MISSING"),
        (40, 4, "image4.png", "EMPTY_IMAGE"),
        (11, 1, "image1.png", "FILE_MISSING"),
        (41, 4, "image4.png", "EMPTY_IMAGE"),
    ]
    assert {e["question_id"] for e in read(out / "answers.json") if not e["answer"]} == {10, 40, 11, 41}
    assert (read(out / "scores.json")["errors"], read(out / "scores.json")["questions"]) == (4, 10)
    for n in (1, 4):
        (split.photos / f"image{n}.png").write_bytes(whole)
    assert main(split.flags(tiny_bundle_answers, out)) == 0
    assert all(e["answer"] for e in read(out / "answers.json"))
    assert not (out / "errors.json").exists()


def test_questions_that_cannot_be_asked_are_answered_with_nothing(tiny_bundle_answers, split, tmp_path, capsys):
    split.questions[2]["question"] = "?!"
    split.questions[3]["question"] = "why " * 51
    split.save()
    out = tmp_path / "out"
    assert main(split.flags(tiny_bundle_answers, out)) == 0
    refused = {e["question_id"]: e["reason"] for e in read(out / "errors.json")}
    assert refused == {20: "EMPTY_QUESTION", 30: "QUESTION_TOO_LONG"}
    assert [e["question_id"] for e in read(out / "answers.json") if not e["answer"]] == [20, 30]
    for question in split.questions:
        question["question"] = "..."
    split.save()
    assert main(split.flags(tiny_bundle_answers, tmp_path / "none")) == 1
    assert "none of the 10 questions is answered; the question has no words" in capsys.readouterr().err


def test_without_annotations_there_are_answers_and_no_scores(tiny_bundle_answers, split, tmp_path, capsys):
    out = tmp_path / "out"
    flags = [
        flag for flag in split.flags(tiny_bundle_answers, out, "--limit=6") if not flag.startswith("--annotations")
    ]
    assert main(flags) == 0
    assert "nothing is scored: there are no annotations" in capsys.readouterr().err
    assert [e["question_id"] for e in read(out / "answers.json")] == [0, 10, 20, 30, 40, 1]
    assert read(out / "scores.json")["metrics"] == {}


def test_without_a_folder_the_scores_are_printed(tiny_bundle_answers, split, tmp_path, capsys):
    flags = [flag for flag in split.flags(tiny_bundle_answers, "") if not flag.startswith("--out")]
    assert main([*flags, "--limit=2"]) == 0
    assert "95 % interval" in capsys.readouterr().out


def test_the_question_only_row_is_a_bundle_or_its_answers(tiny_bundle_answers, blind_bundle, split, tmp_path, capsys):
    out = tmp_path / "out"
    split.questions[1]["question"] = "?"
    split.save()
    assert main(split.flags(tiny_bundle_answers, out, "--question-only", blind_bundle)) == 0
    blind = {entry["question_id"]: entry["answer"] for entry in read(out / "question_only.json")}
    assert len(blind) == 10
    assert blind[10] == ""
    assert len({blind[10 * n] for n in (0, 2, 3, 4)}) == len({blind[10 * n + 1] for n in range(5)}) == 1
    photo = split.photos / "image0.png"
    assert blind[0] == Captioner.load(blind_bundle, threads=1).answer(photo, TEXTS[0]).answers[0].text
    scores = read(out / "scores.json")
    of_blind = vqa_accuracy(blind, split.annotations).overall
    assert scores["rows"]["question only"]["metrics"]["accuracy"] == of_blind
    assert scores["rows"]["question only"]["about"] == blind_bundle.name
    assert scores["bias"]["gap"] == scores["metrics"]["accuracy"] - of_blind
    printed = capsys.readouterr().out
    assert "question only" in printed
    results = write(tmp_path / "blind.json", read(out / "question_only.json"))
    again = split.flags(tiny_bundle_answers, tmp_path / "again", "--question-only", results)
    assert main(again) == 0
    assert read(tmp_path / "again" / "scores.json")["bias"] == scores["bias"]

    assert main(split.flags(blind_bundle, out, "--question-only", tiny_bundle_answers)) == 1
    assert "needs a question_only answerer, tiny has attention" in capsys.readouterr().err
    write(results, read(results)[:-1])
    assert main(split.flags(tiny_bundle_answers, tmp_path / "x", "--question-only", results)) == 1
    assert "blind.json: question 41 has no answer" in capsys.readouterr().err


def test_questions_with_choices_are_answered_a_second_time(tiny_bundle_answers, split, tmp_path, capsys):
    choices = [["red", "no", "unheard of"], ["2", "grass"]]
    for question in split.questions[1:]:
        question["multiple_choices"] = choices[question["question_id"] % 10]
    split.save()
    out = tmp_path / "out"
    assert main(split.flags(tiny_bundle_answers, out, "--precision=fp32")) == 0
    captioner = Captioner.load(tiny_bundle_answers, precision="fp32", threads=1)
    expected = {}
    for q in split.questions[1:]:
        photo, own = split.photos / f"image{q['image_id']}.png", q["multiple_choices"]
        expected[q["question_id"]] = captioner.answer(photo, q["question"], candidates=own).answers[0].text
    results = {e["question_id"]: e["answer"] for e in read(out / "multiple_choice.json")}
    assert results == expected
    assert len(read(out / "answers.json")) == 10
    scores = read(out / "scores.json")
    accuracy = vqa_accuracy(results, split.annotations[1:]).overall
    assert scores["metrics"]["multiple_choice_accuracy"] == scores["multiple_choice"]["metrics"]["accuracy"] == accuracy
    assert "multiple choice" in capsys.readouterr().out


def dialog_flags(split, bundle, out, document, relevance):
    write(split.folder / "questions.json", document)
    write(split.folder / "annotations.json", relevance)
    return split.flags(bundle, out, "--dialogs", "--precision=fp32")


def test_dialogs_are_ranked(tiny_bundle_answers, split, tmp_path, capsys):
    document = visdial((0, 3))
    out = tmp_path / "out"
    assert main(dialog_flags(split, tiny_bundle_answers, out, document, dense(document))) == 0
    captioner = Captioner.load(tiny_bundle_answers, precision="fp32", threads=1)
    data, ranks = document["data"], []
    for dialog in data["dialogs"]:
        for turn in dialog["dialog"]:
            texts = [data["answers"][n] for n in turn["answer_options"]]
            photo = split.photos / f"image{dialog['image_id']}.png"
            found = captioner.answer(photo, data["questions"][turn["question"]], candidates=texts).answers
            probability = {answer.text: answer.probability for answer in found}
            right = probability[texts[turn["gt_index"]]]
            ranks.append(sum(other >= right for other in probability.values()))
    scores = read(out / "scores.json")
    assert scores["metrics"]["MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert scores["metrics"]["R@1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert scores["metrics"]["mean_rank"] == pytest.approx(np.mean(ranks))
    assert 0 < scores["metrics"]["NDCG"] <= 1
    assert scores["ranked"] == {"questions": 6, "with_relevance": 2}
    assert "accuracy" not in scores["metrics"]
    assert [entry["rank"] for entry in read(out / "questions.json")] == ranks
    entries = read(out / "ranks.json")
    assert [(e["image_id"], e["round_id"]) for e in entries] == [(n, r) for n in (0, 3) for r in (1, 2, 3)]
    assert all(sorted(e["ranks"]) == [1, 2, 3, 4, 5] for e in entries)
    assert "MRR" in capsys.readouterr().out
    assert not (out / "answers.json").exists()


def test_a_dialog_about_a_broken_picture_ranks_last(tiny_bundle_answers, split, tmp_path):
    document = visdial((0, 3))
    (split.photos / "image3.png").write_bytes(b"")
    out = tmp_path / "out"
    assert main(dialog_flags(split, tiny_bundle_answers, out, document, dense(document))) == 0
    assert [entry["rank"] for entry in read(out / "questions.json")][3:] == [5, 5, 5]
    assert len(read(out / "errors.json")) == 3


def test_the_last_rounds_of_a_test_set_are_ranked_without_scores(tiny_bundle_answers, split, tmp_path, capsys):
    write(split.folder / "questions.json", visdial((0, 3, 1), test=True))
    out = tmp_path / "out"
    flags = [
        flag for flag in split.flags(tiny_bundle_answers, out, "--dialogs") if not flag.startswith("--annotations")
    ]
    assert main(flags) == 0
    assert [(e["image_id"], e["round_id"]) for e in read(out / "ranks.json")] == [(0, 1), (3, 2), (1, 3)]
    assert read(out / "scores.json")["metrics"] == {}
    assert "nothing is scored" in capsys.readouterr().err


def test_a_hundred_candidates(tiny_bundle_answers, split, tmp_path):
    try:
        Query("what", top=100, candidates=tuple(map(str, range(100))))
    except BadQuestion as e:
        pytest.skip(f"no more than 20 candidates can be ranked: {e}")
    document = visdial((0, 3))
    document["data"]["answers"] += [f"answer {n}" for n in range(95)]
    for dialog in document["data"]["dialogs"]:
        for turn in dialog["dialog"]:
            turn["answer_options"] = list(range(100))
            turn["gt_index"] = 2
    out = tmp_path / "out"
    assert main(dialog_flags(split, tiny_bundle_answers, out, document, dense(document))) == 0
    assert all(sorted(e["ranks"]) == list(range(1, 101)) for e in read(out / "ranks.json"))


def test_ranks_on_paper():
    # Second of three; last, for nothing is known of it; the only one of its own.
    asked = [
        Question(n, n, Path(), "", (), choices=choices, correct_choice=0, relevance=relevance)
        for n, (choices, relevance) in enumerate(
            [(("a", "b", "c"), (0.5, 1.0, 0.0)), (("a", "b"), ()), (("a",), (0.0,))]
        )
    ]
    scores, ranks = evaluate_ranking({0: [0.3, 0.6, 0.1], 2: [1.0]}, asked)
    assert ranks == {0: 2, 1: 2, 2: 1}
    assert scores["metrics"] == pytest.approx(
        {"MRR": 2 / 3, "R@1": 1 / 3, "R@5": 1, "R@10": 1, "mean_rank": 5 / 3, "NDCG": 1}
    )
    assert scores["ranked"] == {"questions": 3, "with_relevance": 1}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--batch=0"], "--batch-size must be at least 1, got 0"),
        (["--workers=-1"], "--workers must be at least 0, got -1"),
        (["--results=a.json"], "or --results, to score answers: not both"),
        (["--naming=image.png"], "naming must hold the image id"),
        (["--bundle=no/such"], "no bundle at no/such"),
        (["--dialogs", "--question-only=a.json"], "--question-only compares answers"),
        (["--pictures=no/such"], "none of the 5 pictures is there: no file no/such/image0.png"),
    ],
)
def test_wrong_settings_are_one_sentence(tiny_bundle_answers, split, tmp_path, capsys, more, complaint):
    assert main(split.flags(tiny_bundle_answers, tmp_path / "out", *more)) == 1
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_a_bundle_that_only_writes_captions_is_refused(tiny_bundle, split, tmp_path, capsys):
    assert main(split.flags(tiny_bundle, tmp_path / "out")) == 1
    assert "writes captions only: it answers no questions" in capsys.readouterr().err
    assert main(["answers", "--bundle", str(tiny_bundle)]) == 1
    assert "a run needs --questions" in capsys.readouterr().err
