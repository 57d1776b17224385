"""`python -m eval answers`: the official accuracy of a file of answers, and the row that saw no picture."""

import json

import pytest

from eval.__main__ import main

PEOPLE = {1: ["yes"] * 10, 2: ["2"] * 3 + ["3"] * 7, 3: ["red"] * 2 + ["a blue"] * 8}
TYPES = {1: "yes/no", 2: "number", 3: "other"}


@pytest.fixture
def annotations(tmp_path):
    document = [
        {"question_id": n, "image_id": n, "question_type": "is", "answer_type": TYPES[n],
         "multiple_choice_answer": answers[0],
         "answers": [{"answer_id": i + 1, "answer": answer} for i, answer in enumerate(answers)]}
        for n, answers in PEOPLE.items()
    ]  # fmt: skip
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"annotations": document}))
    return path


def write(path, answers):
    path.write_text(json.dumps([{"question_id": n, "answer": answer} for n, answer in answers.items()]))
    return path


def test_the_official_accuracy_and_the_gap_to_question_only(annotations, tmp_path, capsys):
    # 10 of 10: 1; 3 of 10: 0.9; 2 of 10: 0.6.
    results = write(tmp_path / "a.json", {1: "yes", 2: "2", 3: "red"})
    blind = write(tmp_path / "b.json", {1: "yes", 2: "7", 3: "blue"})  # 1, 0, and without the article 1
    out = tmp_path / "scores.json"
    flags = ["--annotations", annotations, "--results", results, "--question-only", blind, "--out", out]
    assert main(["answers", *map(str, flags)]) == 0
    scores = json.loads(out.read_text())
    assert scores["metrics"] == {"accuracy": pytest.approx(2.5 / 3)}
    by_type = {name: own["accuracy"] for name, own in scores["per_answer_type"].items()}
    assert by_type == pytest.approx({"yes/no": 1, "number": 0.9, "other": 0.6})
    assert [own["questions"] for own in scores["per_question_type"].values()] == [3]
    assert scores["per_answer_type"]["number"]["interval"] == pytest.approx([0.9, 0.9])
    assert scores["rows"]["question only"]["metrics"] == {"accuracy": pytest.approx(2 / 3)}
    assert scores["rows"]["question only"]["about"] == "b.json"
    assert scores["bias"]["gap"] == pytest.approx(0.5 / 3)
    low, high = scores["intervals"]["accuracy"]
    assert 0.6 <= low < scores["metrics"]["accuracy"] < high <= 1
    each = json.loads((tmp_path / "questions.json").read_text())
    assert [entry["accuracy"] for entry in each] == pytest.approx([1, 0.9, 0.6])
    printed = capsys.readouterr().out
    assert "83.33" in printed
    assert "question only" in printed


def test_scores_are_compared_with_those_of_before(annotations, tmp_path, capsys):
    out = tmp_path / "scores.json"
    flags = ["answers", "--annotations", str(annotations), "--results"]
    one = str(write(tmp_path / "a.json", {1: "yes", 2: "2", 3: "red"}))
    other = str(write(tmp_path / "b.json", {1: "yes", 2: "3", 3: "red"}))
    assert main([*flags, one, "--out", str(out)]) == 0
    assert main([*flags, one, "--check", str(out)]) == 0
    assert f"1 scores equal those of {out}" in capsys.readouterr().out
    assert main([*flags, other, "--check", str(out)]) == 1
    assert "accuracy was 0.833333333 and is now 0.866666667" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ('{"1": "yes"}', "must be a list"),
        ('[{"question_id": "1", "answer": "yes"}]', "integer question_id"),
        ('[{"question_id": 1, "answer": 2}]', "answer must be a string, got 2"),
        ('[{"question_id": 1, "answer": "a"}, {"question_id": 1, "answer": "b"}]', "question_id 1 is in the file twi"),
        ('[{"question_id": 1, "answer": "yes"}]', "a.json against"),
        ("[", "not JSON"),
    ],
)
def test_bad_results_are_named(annotations, tmp_path, capsys, answers, complaint):
    results = tmp_path / "a.json"
    results.write_text(answers)
    assert main(["answers", "--annotations", str(annotations), "--results", str(results)]) == 1
    assert complaint in capsys.readouterr().err
