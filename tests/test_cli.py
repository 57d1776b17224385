"""The command line: what it prints, where it draws, and how it complains."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.bundle import seal
from captioner.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def photos(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "photo.png"
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture
def command(tiny_bundle):
    """Run `captioner caption ... --bundle tiny`."""
    return lambda *arguments: main(["caption", *map(str, arguments), "--bundle", str(tiny_bundle), "--threads", "1"])


def test_captions_for_people(command, photos, capsys):
    assert command(*photos, "--max-words", 5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == photos[0]
    assert lines[4] == photos[1]
    assert len(lines) == 8  # three captions each
    number, *words = lines[1].split()
    assert float(number) < 0
    assert len(words) <= 5


def test_json_is_one_object_per_photo(command, photos, capsys):
    assert command(*photos, "--json", "--captions", 2) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["photo"] for one in objects] == photos
    for one in objects:
        assert set(one) == {"photo", "captions"}
        assert len(one["captions"]) == 2
        for caption in one["captions"]:
            assert set(caption) == {"text", "log_prob", "words"}
            for word in caption["words"]:
                assert set(word) == {"text", "log_prob", "attention"}
                assert np.array(word["attention"]).sum() == pytest.approx(1, abs=1e-3)


def test_without_attention_json_says_null(tiny_bundle_inject, photos, capsys):
    assert main(["caption", photos[0], "--json", "--bundle", str(tiny_bundle_inject), "--threads", "1"]) == 0
    [one] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(word["attention"] is None for caption in one["captions"] for word in caption["words"])


def test_a_bad_photo_does_not_stop_the_others(command, photos, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    bad = [tmp_path / "bad.jpg", tmp_path / "none.jpg", tmp_path]
    assert command(photos[0], *bad, photos[1], "--captions", 1) == 1
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line[0] != " "] == photos
    complaints = err.splitlines()
    assert len(complaints) == 3
    assert complaints[0].startswith(f"captioner: {bad[0]}: the photo is not JPEG, PNG, WebP or GIF")
    assert complaints[1] == f"captioner: {bad[1]}: No such file or directory"
    assert complaints[2] == f"captioner: {bad[2]}: Is a directory"


def test_attention_of_one_photo_is_a_file(command, photos, tmp_path, capsys):
    assert command(photos[0], "--attention", tmp_path / "new" / "look.png") == 0
    with Image.open(tmp_path / "new" / "look.png") as figure:
        assert figure.format == "PNG"
        assert figure.width > 200


def test_attention_of_several_photos_is_a_folder(command, photos, tmp_path, capsys):
    assert command(*photos, "--attention", tmp_path / "looks") == 0
    assert sorted(path.name for path in (tmp_path / "looks").iterdir()) == ["photo-2.png", "photo.png"]


def test_attention_of_several_photos_is_not_a_file(command, photos, tmp_path, capsys):
    assert command(*photos, "--attention", tmp_path / "look.png") == 2
    assert "--attention must be a folder for 2 photos" in capsys.readouterr().err


def test_attention_that_cannot_be_saved_is_named(command, photos, capsys):
    assert command(photos[0], "--attention", Path(photos[0]) / "look.png") == 1  # a file is no folder
    out, err = capsys.readouterr()
    assert "look.png" in err
    assert out


def test_attention_of_a_model_without(tiny_bundle_inject, photos, tmp_path, capsys):
    look = tmp_path / "look.png"
    status = main(["caption", photos[0], "--attention", str(look), "--bundle", str(tiny_bundle_inject)])
    out, err = capsys.readouterr()
    assert status == 1
    assert "has no attention to draw" in err
    assert len(out.splitlines()) == 4  # still captioned
    assert not look.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--beam-size", "0"], "beam_size must be in [1, 20], got 0"),
        (["--beam-size", "2", "--captions", "3"], "captions must be in [1, 2], got 3"),
        (["--max-words", "51"], "max_words must be in [1, 50], got 51"),
        (["--length-power", "3"], "length_power must be in [0.0, 2.0], got 3.0"),
        (["--threads", "0"], "threads must be at least 1, got 0"),
    ],
)
def test_a_bad_option_is_one_sentence(tiny_bundle, photos, arguments, words, capsys):
    assert main(["caption", photos[0], "--bundle", str(tiny_bundle), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_no_bundle_names_the_option(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CAPTIONER_BUNDLE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["caption", photos[0]]) == 2
    assert "give --bundle DIR, set CAPTIONER_BUNDLE" in capsys.readouterr().err


def test_the_bundle_may_come_from_the_variable_or_the_usual_place(
    tiny_bundle, tiny_bundle_inject, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONER_BUNDLE", str(tiny_bundle))
    assert main(["info"]) == 0
    assert str(tiny_bundle) in capsys.readouterr().out
    monkeypatch.delenv("CAPTIONER_BUNDLE")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "default").symlink_to(tiny_bundle_inject)
    assert main(["info"]) == 0
    assert "none" in capsys.readouterr().out


def test_info_says_what_is_in_a_bundle(tiny_bundle, capsys):
    assert main(["info", "--bundle", str(tiny_bundle), "--precision", "fp32", "--threads", "1"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1)
    assert facts["attention"] == "soft"
    assert len(facts["version"]) == 12
    assert "rows" in facts["grid"]
    assert "encoder.onnx" in facts["fp32"]
    assert "captioner.int8.onnx" in facts["int8"]
    assert facts["engine"].startswith("onnxruntime")
    assert facts["engine"].endswith("fp32, provider cpu")


def test_info_shows_a_line_of_scores_for_each_pair_of_precisions(tiny_bundle, tmp_path, capsys):
    folder = tmp_path / "scored"
    shutil.copytree(tiny_bundle, folder)
    score = {"metrics": {"Bleu_1": 0.5, "Bleu_4": 0.25}, "annotations": "val.json", "beam_size": 7}
    scores = {"parity": {"cases": 8}, "precisions": {"encoder int8, decoder fp32": score}}
    (folder / "scores.json").write_text(json.dumps(scores))
    seal(folder)
    assert main(["info", "--bundle", str(folder)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "score encoder int8, decoder fp32 Bleu_1 0.500, Bleu_4 0.250 (val.json, k = 7)" in lines
    assert "score parity cases 8" in lines


def test_a_missing_bundle_is_one_sentence(tmp_path, capsys):
    assert main(["info", "--bundle", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"captioner: no bundle at {tmp_path / 'nowhere'}: there is no such folder\n"


def test_no_engine_is_one_sentence(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["info", "--bundle", str(tiny_bundle)]) == 2
    assert "install captioner[cpu]" in capsys.readouterr().err


def test_it_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "captioner", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0
    assert "caption" in run.stdout


def test_a_reader_that_goes_away_is_no_traceback(tiny_bundle, photos):
    command = [sys.executable, "-m", "captioner", "caption", *photos, "--bundle", str(tiny_bundle), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as run:
        run.stdout.close()
        assert "Traceback" not in run.stderr.read()
    assert run.returncode == 1
