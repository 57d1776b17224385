"""`python -m eval neighbours`: the captions of the pictures that are most alike."""

import json

import pytest

from eval.__main__ import main


def flags(bundle, data, out, split="train"):
    places = {"annotations": "captions_val.json", "pictures": "val", "training-annotations": f"captions_{split}.json",
              "training-pictures": split}  # fmt: skip
    named = [text for name, path in places.items() for text in (f"--{name}", str(data / path))]
    return ["neighbours", "--bundle", str(bundle), *named, "--out", str(out)]


def test_captions_come_from_the_training_pictures(tiny_bundle, tiny_data, tmp_path):
    out = tmp_path / "near.json"
    assert main(flags(tiny_bundle, tiny_data, out)) == 0
    results = json.loads(out.read_text())
    images = json.loads((tiny_data / "captions_val.json").read_text())["images"]
    known = {entry["caption"] for entry in json.loads((tiny_data / "captions_train.json").read_text())["annotations"]}
    assert [entry["image_id"] for entry in results] == [image["id"] for image in images]
    assert {entry["caption"] for entry in results} <= known


def test_a_copy_of_a_training_picture_gets_its_caption(tiny_bundle, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.neighbours.NEAREST", 1)
    document = json.loads((tiny_data / "captions_train.json").read_text())
    (tmp_path / "captions_val.json").write_text(json.dumps({"images": document["images"][:4], "annotations": []}))
    for name in ("val", "train", "captions_train.json"):
        (tmp_path / name).symlink_to(tiny_data / ("train" if name == "val" else name))
    out = tmp_path / "near.json"
    assert main(flags(tiny_bundle, tmp_path, out)) == 0
    own = {image["id"]: [] for image in document["images"]}
    for entry in document["annotations"]:
        own[entry["image_id"]].append(entry["caption"])
    assert all(entry["caption"] in own[entry["image_id"]] for entry in json.loads(out.read_text()))


def test_a_split_is_not_its_own_neighbour(tiny_bundle, tiny_data, tmp_path, capsys):
    assert main(flags(tiny_bundle, tiny_data, tmp_path / "near.json", "val")) == 1
    assert "would be its own training split" in capsys.readouterr().err


def test_a_training_split_without_captions(tiny_bundle, tiny_data, tmp_path, capsys):
    document = json.loads((tiny_data / "captions_train.json").read_text())
    (tmp_path / "captions_train.json").write_text(json.dumps({**document, "annotations": []}))
    for name in ("val", "train", "captions_val.json"):
        (tmp_path / name).symlink_to(tiny_data / name)
    assert main(flags(tiny_bundle, tmp_path, tmp_path / "near.json")) == 1
    assert "holds no captions to say" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _few_workers(monkeypatch):
    monkeypatch.setattr("eval.neighbours.usable_cores", lambda: 0)
