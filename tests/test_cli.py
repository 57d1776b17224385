"""The command line: what it prints, where it draws, and how it complains."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner import Captioner
from captioner.bundle import seal
from captioner.cli import main
from tests.fake_server import BROKEN, UNAVAILABLE, Planned, listening
from tests.running_server import running

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


@pytest.fixture
def ask(tiny_bundle_answers):
    """Run `captioner answer ... --bundle tiny`."""
    given = ["--bundle", str(tiny_bundle_answers), "--threads", "1"]
    return lambda *arguments: main(["answer", *map(str, arguments), *given])


@pytest.fixture(scope="module")
def server(tiny_bundle_answers):
    with running(Captioner.load(tiny_bundle_answers, "fp32", threads=1)) as running_server:
        yield running_server.target


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


def test_answers_for_people(ask, photos, capsys):
    assert ask(*photos, "--question", "is the zorbing dog red?", "--top", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0::5] == photos
    assert lines[1::5] == ["is the zorbing dog red?"] * 2
    percents = [float(line.split("%")[0]) for line in (lines[2], lines[3])]
    assert 100 >= percents[0] >= percents[1] >= 0
    assert lines[4::5] == ["  words it does not know: zorbing"] * 2


def test_answers_as_json(ask, photos, capsys):
    assert ask(*photos, "--question", "is the zorbing dog red?", "--top", 3, "--json") == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["photo"] for one in objects] == photos
    for one in objects:
        assert list(one) == ["photo", "question", "unknown_words", "answers", "attention"]
        assert one["question"] == "is the zorbing dog red?"
        assert one["unknown_words"] == ["zorbing"]
        assert [list(answer) for answer in one["answers"]] == [["text", "probability"]] * 3
        assert np.array(one["attention"]).ndim == 2
        assert np.array(one["attention"]).sum() == pytest.approx(1, abs=1e-3)


def test_answers_are_chosen_from_the_candidates(ask, photos, capsys):
    flags = ["--question", "what is it?", "--candidate", "red", "--candidate", "blue", "--candidate", "a zeppelin"]
    assert ask(photos[0], *flags, "--json") == 0
    [one] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    answers = {answer["text"]: answer["probability"] for answer in one["answers"]}
    assert set(answers) == {"red", "blue", "a zeppelin"}
    assert sum(answers.values()) == pytest.approx(1)
    assert ask(photos[0], *flags) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  answers it cannot give: a zeppelin"


def test_attention_of_an_answer_is_drawn(ask, photos, tmp_path, capsys):
    assert ask(*photos, "--question", "what is it?", "--attention", tmp_path / "looks") == 0
    assert sorted(path.name for path in (tmp_path / "looks").iterdir()) == ["photo-2.png", "photo.png"]


def test_a_bad_photo_does_not_stop_the_other_answers(ask, photos, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    assert ask(photos[0], tmp_path / "bad.jpg", photos[1], "--question", "what is it?", "--json") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["photo"] for line in out.splitlines()] == photos
    assert err.startswith(f"captioner: {tmp_path / 'bad.jpg'}: the photo is not JPEG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--question", ""], "the question has no words"),
        (["--question", "what?", "--top", "21"], "top must be in [1, 20], got 21"),
        (["--question", "what?", "--candidate", "a", "--candidate", "a"], "a candidate is given twice"),
        (["--question", "what?", "--history", "is it?", "no"], "was not trained on dialogs"),
        (["--question", "what?", "--model", "another"], "--model has no meaning without --server"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_sentence(ask, photos, arguments, words, capsys):
    assert ask(photos[0], *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_a_model_that_only_captions_answers_nothing(tiny_bundle, photos, capsys):
    assert main(["answer", photos[0], "--question", "what?", "--bundle", str(tiny_bundle)]) == 2
    assert "answers no questions" in capsys.readouterr().err


def test_info_says_what_can_be_answered(tiny_bundle_answers, capsys):
    assert main(["info", "--bundle", str(tiny_bundle_answers), "--threads", "1"]) == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    bundle = Captioner.load(tiny_bundle_answers).bundle
    assert facts["answerer kind"] == "attention"
    assert facts["answers"] == str(len(bundle.answers))
    assert facts["question words"] == f"{len(bundle.question_vocabulary)} words"
    assert all(f"{graph}.onnx" in facts["fp32"] for graph in ("encoder", "captioner", "answerer"))
    assert facts["hidden_size"] == str(bundle.model.hidden_size)  # the answerer has one too


def test_a_server_says_the_same_as_the_bundle(server, tiny_bundle_answers, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # no bundle here
    monkeypatch.delenv("CAPTIONER_BUNDLE", raising=False)
    here = ["--bundle", str(tiny_bundle_answers), "--precision", "fp32", "--threads", "1"]
    for command in (["caption", "--beam-size", "3"], ["answer", "--question", "is the zorbing dog red?"]):
        found = []
        for where in (here, ["--server", server]):
            assert main([*command, *photos, "--json", *where]) == 0
            found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        for ours, theirs in zip(*found, strict=True):
            assert theirs == _nearly(ours)
        assert main([*command, *photos, "--server", server, "--attention", str(tmp_path / command[0])]) == 0
        assert len(list((tmp_path / command[0]).iterdir())) == 2
        assert "\n  " in capsys.readouterr().out


def _nearly(value):
    """Nested values, the numbers among them about the same: they vary a little with the batch."""
    if isinstance(value, dict):
        return {name: _nearly(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_nearly(one) for one in value]
    return pytest.approx(value, abs=0.01) if isinstance(value, float) else value


def test_a_server_s_complaint_about_one_photo_does_not_stop_the_others(server, photos, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    bad = [str(tmp_path / "bad.jpg"), str(tmp_path / "none.jpg")]
    for command in (["caption"], ["answer", "--question", "what?"]):
        assert main([*command, photos[0], *bad, photos[1], "--json", "--server", server]) == 1
        out, err = capsys.readouterr()
        assert [json.loads(line)["photo"] for line in out.splitlines()] == photos
        complaints = err.splitlines()
        assert complaints[0].startswith(f"captioner: {bad[0]}: the photo is not JPEG")
        assert complaints[1:] == [f"captioner: {bad[1]}: No such file or directory"]


def test_a_server_that_fails_once_goes_on_and_one_that_is_not_there_ends_it(photos, capsys):
    planned = Planned(BROKEN, *[UNAVAILABLE] * 100)
    with listening(planned) as target:
        assert main(["caption", photos[0], "--server", target]) == 1
        assert capsys.readouterr().err == f"captioner: {photos[0]}: {target}: broken\n"
        assert main(["caption", *photos, "--server", target]) == 2
        assert capsys.readouterr().err == f"captioner: {target}: not now\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--beam-size", "21"], "beam_size must be in [1, 20], got 21"),
        (["--model", "another"], "no model 'another'"),
        (["--threads", "1"], "--threads has no meaning with --server"),
        (["--timeout", "0"], "timeout must be above 0 seconds, got 0.0"),
        (["--token-file", "nowhere"], "nowhere: No such file or directory"),
        (["--tls-ca", "nowhere"], "nowhere: No such file or directory"),
        (["--tls-key", "nowhere"], "certificate and key go together"),
    ],
)
def test_a_bad_option_for_a_server_is_one_sentence(server, photos, arguments, words, capsys):
    assert main(["caption", photos[0], "--server", server, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_the_token_is_that_of_the_file(photos, tmp_path, capsys):
    (tmp_path / "token").write_text("open-sesame\n")
    planned = Planned()
    with listening(planned) as target:
        assert main(["caption", photos[0], "--server", target, "--token-file", str(tmp_path / "token")]) == 0
    assert planned.metadata[0]["authorization"] == "Bearer open-sesame"


def test_a_server_without_grpc_is_one_sentence(photos, monkeypatch, capsys):
    for module in [name for name in sys.modules if name.startswith("captioner.client")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert main(["caption", photos[0], "--server", "127.0.0.1:1"]) == 2
    assert "install captioner[serve]" in capsys.readouterr().err


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
