"""`python -m eval speed`: the table and the file; the torch peer is asked for, and missed politely."""

import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from captioner.captioner import Captioner
from eval import speed
from eval.__main__ import main

PEER = {"encode_ms": 40.0, "search_ms": 20.0, "total_ms": 63.0}


def answer(monkeypatch, returncode=0, stdout="", stderr=""):
    """Stand in for the torch peer; returns the commands it was given."""
    commands = []
    run = subprocess.run

    def fake(command, **options):
        if "captioner.model.eager" not in command:
            return run(command, **options)
        commands.append(command)
        return SimpleNamespace(returncode=returncode, stdout=stdout, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", fake)
    return commands


def test_generated_photo_is_a_jpeg_of_a_photos_size():
    photo = Image.open(io.BytesIO(speed.generated_photo()))
    assert (photo.format, photo.size) == ("JPEG", (640, 480))
    assert 30_000 < len(speed.generated_photo()) < 300_000


def test_ratios_compare_like_with_like():
    ours = {"decode + resize": 3.0, "encode": 4.0, "search": 8.0, "total": 15.0}
    assert speed.ratios(ours, PEER) == {"encode": 10.0, "search": 2.5, "model": 5.0}


def test_table_and_file(tiny_bundle, tmp_path, monkeypatch, capsys):
    commands = answer(monkeypatch, stdout="loading\n" + json.dumps(PEER) + "\n")
    out = tmp_path / "speed.json"
    arguments = ["speed", "--bundle", str(tiny_bundle), "--repeats", "3", "--threads", "1", "--out", str(out)]
    assert main([*arguments, "--run", "runs/mine"]) == 0
    table = capsys.readouterr().out
    assert [line.split("  ")[0] for line in table.splitlines()[1:]] == ["onnx fp32", "onnx int8", "torch eager"]
    report = json.loads(out.read_text())
    for precision in ("fp32", "int8"):
        times = report["stages_ms"][precision]
        assert set(times) == set(speed.STAGES)
        assert min(times.values()) > 0
        model = times["encode"] + times["search"]
        assert report["times_faster_than_torch"][precision]["model"] == pytest.approx(60 / model)
    assert report["torch_ms"] == PEER
    assert (report["beam_size"], report["threads"], report["repeats"]) == (7, 1, 3)
    assert report["photo"] == "generated JPEG, 640 x 480"
    (command,) = commands
    given = dict(zip(command[3::2], command[4::2], strict=True))
    assert (given["--beam-size"], given["--repeats"], given["--threads"]) == ("7", "3", "1")
    assert given["--weights"] == str(Path("runs/mine/best.safetensors"))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            {"returncode": 1, "stderr": "Traceback\nModuleNotFoundError: No module named 'torch'\n"},
            "No module named 'torch'",
        ),
        ({"returncode": 3}, "exit status 3"),
        ({"stdout": ""}, "printed no times"),
        ({"stdout": '{"encode_ms": 1}'}, "printed no times"),
    ],
)
def test_without_torch_a_sentence_says_so(tiny_bundle, tmp_path, monkeypatch, capsys, fault, sentence):
    answer(monkeypatch, **fault)
    photo = tmp_path / "mine.jpg"
    photo.write_bytes(speed.generated_photo())
    out = tmp_path / "speed.json"
    arguments = ["speed", "--bundle", str(tiny_bundle), "--photo", str(photo), "--repeats", "1", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "torch is not available: " in printed.err
    assert sentence in printed.err
    report = json.loads(out.read_text())
    assert (report["torch_ms"], report["times_faster_than_torch"], report["photo"]) == (None, None, "mine.jpg")
    assert sentence in report["torch_not_available"]


def test_the_real_torch_peer(tiny_bundle, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("captioner.model.eager")
    assert main(["speed", "--bundle", str(tiny_bundle), "--repeats", "2", "--threads", "1"]) == 0
    printed = capsys.readouterr()
    assert "torch eager" in printed.out, printed.err


def test_the_second_question_about_a_photo_needs_no_encoder(tiny_bundle_answers, tmp_path, monkeypatch, capsys):
    encoded = []
    encode = Captioner.encode
    monkeypatch.setattr(Captioner, "encode", lambda self, p: encoded.append(self.precision) or encode(self, p))
    out = tmp_path / "speed.json"
    flags = ["speed", "--bundle", str(tiny_bundle_answers), "--question", "is it red?", "--threads", "1"]
    assert main([*flags, "--repeats", "3", "--out", str(out)]) == 0
    assert encoded == ["fp32", "int8"] * (3 + speed.WARM_UP)  # once for two questions
    report = json.loads(out.read_text())
    for precision in ("fp32", "int8"):
        first, second = report["first_ms"][precision], report["second_ms"][precision]
        assert report["second_over_first"][precision] == pytest.approx(second / first)
        assert min(first, second) > 0
    assert (report["question"], report["repeats"], report["threads"]) == ("is it red?", 3, 1)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["onnx", "fp32"],
        ["onnx", "int8"],
    ]


def test_questions_need_an_answerer_and_words(tiny_bundle, tiny_bundle_answers, capsys):
    assert main(["speed", "--bundle", str(tiny_bundle), "--question", "is it red?"]) == 1
    assert "answers no questions" in capsys.readouterr().err
    assert main(["speed", "--bundle", str(tiny_bundle_answers), "--question", ""]) == 1
    assert "the question has no words" in capsys.readouterr().err


def test_wrong_flags(tiny_bundle, capsys):
    assert main(["speed", "--bundle", str(tiny_bundle), "--repeats", "0"]) == 1
    assert "--repeats must be at least 1, got 0" in capsys.readouterr().err
