"""`python -m eval score`: what stands in scores.json beside the scores, checks, comparisons, and Java's metrics."""

import json
import shutil

import pytest

from eval import java
from eval.__main__ import main
from eval.java import java_scores
from eval.metrics import tokenized

CAPTIONS = {
    1: ["A dog runs on the grass.", "A brown dog is running."],
    2: ["Two children play.", "Two kids are playing on a beach."],
    3: ["A man climbs a rock.", "A climber on a steep rock face."],
}
RESULTS = {1: "a dog runs", 2: "two children play on the beach", 3: "a man on a rock"}


def write_annotations(folder, captions=CAPTIONS):
    path = folder / "captions.json"
    annotations = [
        {"id": 10 * image_id + n, "image_id": image_id, "caption": text}
        for image_id, own in captions.items()
        for n, text in enumerate(own)
    ]
    images = [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in captions]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def write_results(path, results):
    path.write_text(json.dumps([{"image_id": i, "caption": caption} for i, caption in results.items()]))
    return path


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def score(tmp_path):
    annotations = write_annotations(tmp_path)
    results = write_results(tmp_path / "results.json", RESULTS)

    def run(*more, results=results, annotations=annotations):
        places = ["--annotations", annotations, "--results", results, "--out", tmp_path / "scores.json"]
        return main(["score", *map(str, places), "--no-java", *map(str, more)])

    return run


def test_what_stands_beside_the_scores(score, tmp_path, capsys):
    assert score() == 0
    scores, pictures = read(tmp_path / "scores.json"), read(tmp_path / "pictures.json")
    assert list(scores["metrics"]) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr", "CIDEr_D"]
    for name, value in scores["metrics"].items():
        low, high = scores["intervals"][name]
        assert low <= value <= high
    assert scores["rows"]["human"]["about"] == "the first reference against the others, 3 pictures"
    assert scores["document_frequencies"] == {"of": "the references of the pictures that are scored", "pictures": 3}
    assert scores["references"]["of"] == 3
    assert [entry["image_id"] for entry in pictures] == [1, 2, 3]
    assert pictures[0]["caption"] == "a dog runs"
    mean = sum(entry["scores"]["CIDEr"] for entry in pictures) / 3
    assert mean == pytest.approx(scores["metrics"]["CIDEr"], abs=1e-5)
    printed = capsys.readouterr().out
    for text in ("95 % interval", "human", "one constant caption"):
        assert text in printed


def test_scores_that_are_computed_again_are_equal(score, tmp_path, capsys):
    assert score() == 0
    old = shutil.copy(tmp_path / "scores.json", tmp_path / "old.json")
    assert score("--check", old) == 0
    assert f"7 scores equal those of {old}" in capsys.readouterr().out
    scores = read(old)
    scores["metrics"]["Bleu_2"] += 1e-6
    (tmp_path / "old.json").write_text(json.dumps(scores))
    assert score("--check", old) == 1
    assert "old.json: Bleu_2 was" in capsys.readouterr().err


def test_other_references_are_not_comparable(score, tmp_path, capsys):
    assert score() == 0
    old = shutil.copy(tmp_path / "scores.json", tmp_path / "old.json")
    fewer = write_annotations(tmp_path, {**CAPTIONS, 3: CAPTIONS[3][:1]})
    assert score("--check", old, annotations=fewer) == 1
    assert "these scores are not comparable" in capsys.readouterr().err


def test_document_frequencies_from_a_file(score, tmp_path, capsys):
    out = tmp_path / "frequencies.json"
    annotations = write_annotations(tmp_path)
    assert main(["frequencies", "--annotations", str(annotations), "--out", str(out)]) == 0
    assert "in the captions of 3 pictures" in capsys.readouterr().out
    assert score() == 0
    own = read(tmp_path / "scores.json")["metrics"]
    assert score("--document-frequencies", out) == 0
    scores = read(tmp_path / "scores.json")
    assert scores["metrics"] == pytest.approx(own)  # the same set
    assert scores["document_frequencies"] == {"of": "frequencies.json", "pictures": 3}


def test_a_paired_bootstrap_between_two_results(score, tmp_path, capsys):
    worse = write_results(tmp_path / "worse.json", dict.fromkeys(CAPTIONS, "a cat"))
    assert score("--against", worse) == 0
    against = read(tmp_path / "scores.json")["against"]
    assert against["results"] == "worse.json"
    difference = against["metrics"]["Bleu_1"]
    assert 0 < difference["low"] <= difference["difference"] <= difference["high"]
    assert "paired bootstrap" in capsys.readouterr().out
    other = write_results(tmp_path / "other.json", {1: "a cat"})
    assert score("--against", other) == 1
    assert "2 pictures are only in one of the two results" in capsys.readouterr().err


def test_neighbours_are_a_row(score, tmp_path, capsys):
    neighbours = write_results(tmp_path / "near.json", {1: "a dog", 2: "a dog"})
    assert score("--neighbours", neighbours) == 0
    assert read(tmp_path / "scores.json")["rows"]["nearest neighbour"]["about"] == "2 pictures"
    assert "nearest neighbour" in capsys.readouterr().out


def test_without_java_there_is_a_sentence_and_no_number(monkeypatch):
    pytest.importorskip("pycocoevalcap.meteor.meteor", reason="pycocoevalcap is not installed")
    monkeypatch.setattr(java.shutil, "which", lambda _: None)
    found, skipped = java_scores(tokenized(RESULTS, CAPTIONS))
    assert not found
    assert skipped == dict.fromkeys(["METEOR", "SPICE"], "there is no java on the path")


def test_meteor_by_its_own_program():
    pytest.importorskip("pycocoevalcap.meteor.meteor", reason="pycocoevalcap is not installed")
    if not shutil.which("java"):
        pytest.skip("there is no java")
    found, skipped = java_scores(tokenized(RESULTS | {1: "A dog runs on the grass."}, CAPTIONS))
    total, each_N = found["METEOR"]
    assert each_N[0] == 1.0  # the reference itself
    assert each_N.min() < total < 1
    assert "SPICE" in {**found, **skipped}
