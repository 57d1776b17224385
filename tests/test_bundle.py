"""A bundle opens whole and unchanged, or says in one sentence which file is wrong."""

import json
import shutil
from pathlib import Path

import pytest

from captioner.bundle import Bundle, BundleError, seal
from captioner.config import ModelConfig, SearchOptions
from captioner.vocabulary import MARKS, Vocabulary


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sealed bundle whose graphs are not graphs: opening never looks inside them."""
    config = {
        "format_version": 1,
        "name": "paper",
        "model": ModelConfig().to_dict(),
        "grid": [7, 7, 1280],
        "search": {"beam_size": 5, "max_words": 16, "length_power": 0.7},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    Vocabulary([*MARKS, "straw", "hat"]).save(tmp_path / "vocabulary.json")
    (tmp_path / "scores.json").write_text('{"CIDEr": 0.5}')
    for name in ("encoder.onnx", "captioner.onnx", "captioner.int8.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    seal(tmp_path)
    return tmp_path


def change(folder: Path, name: str, **values) -> None:
    """Change settings in a JSON file and seal again, as a wrong export would."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    seal(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as e:
        Bundle.open(folder)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_opens_with_its_settings(folder):
    bundle = Bundle.open(str(folder))
    assert (bundle.name, bundle.grid, bundle.model) == ("paper", (7, 7, 1280), ModelConfig())
    assert bundle.search == SearchOptions(beam_size=5, max_words=16, length_power=0.7)
    assert bundle.vocabulary.words[4:] == ("straw", "hat")
    assert bundle.scores == {"CIDEr": 0.5}
    assert bundle.precisions == ("fp32",)  # one int8 graph alone cannot run
    assert bundle.graph("encoder", "fp32") == folder / "encoder.onnx"


def test_both_precisions(folder):
    (folder / "encoder.int8.onnx").write_bytes(b"x")
    seal(folder)
    bundle = Bundle.open(folder)
    assert bundle.precisions == ("fp32", "int8")
    assert bundle.graph("captioner", "int8").name == "captioner.int8.onnx"


def test_a_precision_that_is_not_there_is_named(folder):
    with pytest.raises(BundleError, match="has the precision fp32, not int8"):
        Bundle.open(folder).graph("encoder", "int8")


def test_the_version_names_the_content(folder):
    version = Bundle.open(folder).version
    assert len(version) == 12
    assert int(version, 16) >= 0
    assert seal(folder) == version  # sealing again changes nothing
    change(folder, "scores.json", CIDEr=0.6)
    assert Bundle.open(folder).version != version


def test_a_copy_has_the_same_version(folder, tmp_path_factory):
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("copies") / "copy")
    assert Bundle.open(copy).version == Bundle.open(folder).version


def test_seal_leaves_only_the_manifest_behind(folder):
    before = {f.name for f in folder.iterdir()}
    (folder / ".DS_Store").write_bytes(b"dust")
    seal(folder)
    assert {f.name for f in folder.iterdir()} == before | {".DS_Store"}
    named = set(json.loads((folder / "manifest.json").read_text())["files"])
    assert named == before - {"manifest.json"}


@pytest.mark.parametrize("name", ["encoder.onnx", "captioner.int8.onnx", "config.json", "vocabulary.json"])
def test_a_changed_file_is_named(folder, name):
    with (folder / name).open("ab") as f:
        f.write(b" ")
    assert f"{name} was changed after the bundle was sealed" in refusal(folder)


@pytest.mark.parametrize("name", ["encoder.onnx", "config.json", "scores.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json"])
def test_a_file_that_was_never_there_is_named(folder, name):
    (folder / name).unlink()
    seal(folder)
    assert f"{name} is not in manifest.json" in refusal(folder)


def test_a_file_added_later_is_not_read(folder):
    (folder / "encoder.int8.onnx").write_bytes(b"not sealed")
    assert Bundle.open(folder).precisions == ("fp32",)


def test_another_format_version_is_refused(folder):
    change(folder, "config.json", format_version=2)
    assert "config.json has format_version 2, here it is 1" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"grid": [7, 7]}, "not enough values"),
        ({"grid": [7, 0, 3]}, "grid must be at least 1, got 0"),
        ({"grid": None}, "NoneType"),
        ({"search": {"beam_size": 99}}, "beam_size must be in [1, 20], got 99"),
        ({"search": {"beams": 5}}, "beams"),
        ({"model": {}}, "preprocessing"),
        ({"model": {**ModelConfig().to_dict(), "attention": "hard"}}, "attention must be one of none, soft"),
    ],
)
def test_wrong_settings_are_named(folder, values, words):
    change(folder, "config.json", **values)
    assert words in refusal(folder)


def test_a_setting_left_out_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["name"]
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder)
    assert "name is missing" in refusal(folder)


def test_a_wrong_vocabulary_is_named(folder):
    change(folder, "vocabulary.json", words=["a", "b"])
    assert "a vocabulary starts with <pad>" in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "7", "{"])
def test_settings_that_are_not_an_object_are_named(folder, text):
    (folder / "config.json").write_text(text)
    seal(folder)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', "\xff"])
def test_a_damaged_manifest_is_named(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    assert "manifest.json is not a list of files with their hashes" in refusal(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a\\b"])
def test_a_manifest_cannot_point_outside(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "names a file outside the folder" in refusal(folder)


def test_no_graphs_no_bundle(folder):
    (folder / "encoder.onnx").unlink()
    seal(folder)
    assert "no precision has all of the graphs encoder, captioner" in refusal(folder)


def test_a_folder_that_is_none(tmp_path):
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    assert "manifest.json cannot be read" in refusal(tmp_path)


def test_the_tiny_bundles_open(tiny_bundle, tiny_bundle_inject):
    assert Bundle.open(tiny_bundle).model.attention == "soft"
    assert Bundle.open(tiny_bundle).precisions == ("fp32", "int8")
    assert Bundle.open(tiny_bundle_inject).model.attention == "none"
