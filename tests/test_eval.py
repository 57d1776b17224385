"""`python -m eval captions` and `score`: the files they write, what they refuse, and being killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.bundle import Bundle
from captioner.captioner import Captioner
from captioner.config import SearchOptions
from eval.__main__ import main
from eval.coco import load_split
from eval.journal import Journal
from eval.metrics import score_captions

ROOT = Path(__file__).parent.parent
PICTURES = 7


def make_split(folder, pictures):
    """A folder of noise and its captions; returns the annotations and the folder."""
    rng = np.random.default_rng(5)
    photos = folder / "photos"
    photos.mkdir()
    for n in range(pictures):
        blocks = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        blocks.resize((80 + n % 5, 60), Image.Resampling.NEAREST).save(photos / f"{n}.png")
    document = {
        "images": [{"id": 100 + n, "file_name": f"{n}.png"} for n in range(pictures)],
        "annotations": [
            {"id": 2 * n + i, "image_id": 100 + n, "caption": caption}
            for n in range(pictures)
            for i, caption in enumerate(["A dog runs on the grass.", "Two children play."])
        ],
    }
    annotations = folder / "captions_mine.json"
    annotations.write_text(json.dumps(document))
    return annotations, photos


@pytest.fixture
def split(tmp_path):
    return make_split(tmp_path, PICTURES)


def flags(bundle, split, out, *more):
    annotations, photos = split
    places = ["--bundle", bundle, "--annotations", annotations, "--pictures", photos, "--out", out]
    return [
        "captions",
        *map(str, places),
        "--threads",
        "1",
        "--workers",
        "0",
        "--batch-size",
        "3",
        "--no-java",
        *map(str, more),
    ]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_captions_are_those_of_the_captioner(tiny_bundle, split, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(flags(tiny_bundle, split, out, "--precision", "fp32", "--beam-size", "3", "--max-words", "6")) == 0
    captions = read(out / "captions.json")
    assert [entry["image_id"] for entry in captions] == [100 + n for n in range(PICTURES)]
    captioner = Captioner.load(tiny_bundle, precision="fp32", threads=1)
    for n, entry in enumerate(captions):
        photo = split[1] / f"{n}.png"
        assert set(entry) == {"image_id", "caption"}
        assert entry["caption"] == captioner.caption(photo, beam_size=3, max_words=6)[0].text

    scores = read(out / "scores.json")
    references = load_split(*split).references
    assert scores["metrics"] == score_captions({e["image_id"]: e["caption"] for e in captions}, references)
    bundle = Bundle.open(tiny_bundle)
    expected = {
        "beam_size": 3,
        "max_words": 6,
        "length_power": bundle.search.length_power,
        "pictures": PICTURES,
        "errors": 0,
        "bundle": bundle.name,
        "bundle_version": bundle.version,
        "precision": "fp32",
        "annotations": "captions_mine.json",
        "split": None,
    }
    assert {name: scores[name] for name in expected} == expected
    assert {"implementation", "tokenizer", "length_rule", "commit"} <= set(scores)
    assert "curve" not in scores
    assert not (out / "errors.json").exists()
    assert "Bleu_4" in capsys.readouterr().out


def test_several_beam_sizes_give_a_curve_and_encode_once(tiny_bundle, split, tmp_path, monkeypatch):
    encoded = []
    encode = Captioner.encode
    monkeypatch.setattr(Captioner, "encode", lambda self, p: encoded.append(len(p)) or encode(self, p))
    out, alone = tmp_path / "out", tmp_path / "alone"
    assert main(flags(tiny_bundle, split, out, "--beam-size", "7", "1", "3", "1")) == 0
    assert encoded == [3, 3, 1]
    assert main(flags(tiny_bundle, split, alone, "--beam-size", "3")) == 0
    assert read(out / "captions.k3.json") == read(alone / "captions.json")
    scores = read(out / "scores.json")
    assert [(row["beam_size"], row["results"]) for row in scores["curve"]] == [
        (1, "captions.k1.json"),
        (3, "captions.k3.json"),
        (7, "captions.k7.json"),
    ]
    assert scores["curve"][1]["metrics"] == read(alone / "scores.json")["metrics"]
    assert scores["beam_size"] == Bundle.open(tiny_bundle).search.beam_size == 7
    assert scores["metrics"] == scores["curve"][2]["metrics"]


def test_workers_change_nothing_but_the_speed(tiny_bundle, split, tmp_path, capsys):
    (split[1] / "4.png").write_bytes(b"not a picture")
    for workers in (0, 2):
        assert main(flags(tiny_bundle, split, tmp_path / f"{workers}", "--workers", workers)) == 0
    for name in ("captions.json", "errors.json", "journal.jsonl", "scores.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name

    throughput = read(tmp_path / "2" / "throughput.json")
    stages = throughput["stages"]
    assert list(stages) == ["waiting for pictures", "encoding", "searching", "other"]
    assert throughput["pictures"] == PICTURES
    assert throughput["pictures_per_second"] == pytest.approx(PICTURES / throughput["seconds"])
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
    assert "7 pictures in " in capsys.readouterr().out

    # Only the batch with the bad picture is run again.
    assert main(flags(tiny_bundle, split, tmp_path / "2")) == 0
    assert read(tmp_path / "2" / "throughput.json")["pictures"] == 3


def test_broken_and_missing_pictures_are_listed(tiny_bundle, split, tmp_path, capsys):
    (split[1] / "1.png").unlink()
    (split[1] / "2.png").write_bytes(b"")
    (split[1] / "4.png").write_bytes(b"not a picture")
    out = tmp_path / "out"
    assert main(flags(tiny_bundle, split, out)) == 0
    assert "warning: 3 of 7 pictures could not be read" in capsys.readouterr().err
    errors = read(out / "errors.json")
    assert [(e["image_id"], e["file"], e["reason"]) for e in errors] == [
        (101, "1.png", "FILE_MISSING"),
        (102, "2.png", "EMPTY_IMAGE"),
        (104, "4.png", "UNSUPPORTED_FORMAT"),
    ]
    assert all(e["message"] for e in errors)
    assert [entry["image_id"] for entry in read(out / "captions.json")] == [100, 103, 105, 106]
    assert (read(out / "scores.json")["pictures"], read(out / "scores.json")["errors"]) == (4, 3)

    # Put right, they are looked at again.
    whole = Path(split[1] / "0.png").read_bytes()
    for n in (1, 2, 4):
        (split[1] / f"{n}.png").write_bytes(whole)
    assert main(flags(tiny_bundle, split, out)) == 0
    assert len(read(out / "captions.json")) == PICTURES
    assert not (out / "errors.json").exists()


def test_no_picture_at_all_is_an_error(tiny_bundle, split, tmp_path, capsys):
    for photo in split[1].iterdir():
        photo.write_bytes(b"GIF")
    out = tmp_path / "out"
    assert main(flags(tiny_bundle, split, out)) == 1
    assert "error: none of the 7 pictures could be read; the first: " in capsys.readouterr().err
    assert len(read(out / "errors.json")) == PICTURES
    assert not (out / "captions.json").exists()
    for photo in split[1].iterdir():
        photo.unlink()
    assert main(flags(tiny_bundle, split, tmp_path / "other")) == 1
    assert f"none of the 7 pictures is there: no file {split[1] / '0.png'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--beam-size", "21"], "beam_size must be in [1, 20], got 21"),
        (["--max-words", "0"], "max_words must be in [1, 50], got 0"),
        (["--length-power", "3"], "length_power must be in [0.0, 2.0], got 3.0"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--ray", "local"], "--workers is for a run without --ray"),
        (["--split", "val"], "no image has a split field"),
        (["--bundle", "no/such"], "no bundle at no/such"),
    ],
)
def test_wrong_settings_are_one_sentence(tiny_bundle, split, tmp_path, capsys, more, complaint):
    assert main(flags(tiny_bundle, split, tmp_path / "out", *more)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    assert complaint in lines[-1]


def test_limit_and_pictures_without_captions(tiny_bundle, split, tmp_path, capsys):
    document = read(split[0])
    del document["annotations"]
    split[0].write_text(json.dumps(document))
    out = tmp_path / "out"
    assert main(flags(tiny_bundle, split, out, "--limit", "2")) == 0
    assert "nothing is scored: the annotations hold no captions" in capsys.readouterr().err
    assert len(read(out / "captions.json")) == 2
    assert (read(out / "scores.json")["metrics"], read(out / "scores.json")["pictures"]) == ({}, 0)


def test_other_settings_are_refused_unless_restarted(tiny_bundle, tiny_bundle_inject, split, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(flags(tiny_bundle, split, out, "--beam-size", "1", "3")) == 0
    old = (out / "scores.json").read_bytes()
    assert main(flags(tiny_bundle, split, out, "--beam-size", "2")) == 1
    message = capsys.readouterr().err
    assert "holds a run with other settings: beam_size was [1, 3] and is now [2]; pass --restart" in message
    assert main(flags(tiny_bundle_inject, split, out, "--beam-size", "1", "3")) == 1
    assert "bundle_version was" in capsys.readouterr().err
    assert (out / "scores.json").read_bytes() == old
    assert main(flags(tiny_bundle, split, out, "--beam-size", "2", "--restart")) == 0
    assert read(out / "scores.json")["beam_size"] == 2
    assert sorted(path.name for path in out.iterdir()) == [
        "captions.json",
        "journal.jsonl",
        "pictures.json",
        "scores.json",
        "settings.json",
        "throughput.json",
    ]


def test_a_killed_run_ends_as_if_it_had_not_been(tiny_bundle, tmp_path):
    split = make_split(tmp_path, 90)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def start(out):
        command = flags(tiny_bundle, split, out, "--beam-size", "2", "7", "--batch-size", "2", "--workers", "2")
        return subprocess.Popen(
            [sys.executable, "-m", "eval", *command], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        )

    assert start(tmp_path / "whole").wait(300) == 0

    out = tmp_path / "killed"
    journal = out / "journal.jsonl"
    killed, before = 0, 0
    for batches in (1, 6, 15):
        process = start(out)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") >= batches:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        killed += process.wait(60) == -signal.SIGKILL
        done = journal.read_bytes().count(b"\n")
        assert done >= before  # it went on, it did not begin again
        before = done
        with journal.open("ab") as file:  # and the power went while a line was written
            file.write(b'{"batch":44,"results":[{"image_id":1')
    assert killed >= 1
    assert before < 45
    assert not (out / "captions.k7.json").exists()
    assert start(out).wait(300) == 0
    for name in ("captions.k2.json", "captions.k7.json", "scores.json", "journal.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_journal_goes_on_after_a_torn_line(tmp_path):
    with Journal(tmp_path, {"k": (1, 2)}) as journal:
        journal.append(0, {"results": ["a"]})
        journal.append(1, {"results": ["é"]})
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    with Journal(tmp_path, {"k": [1, 2]}) as journal:
        assert journal.batches == {0: {"results": ["a"]}}
        journal.append(1, {"results": ["b"]})
        journal.append(0, {"results": ["c"]})
    with Journal(tmp_path, {"k": [1, 2]}) as journal:
        assert journal.batches == {0: {"results": ["c"]}, 1: {"results": ["b"]}}
    path.write_bytes(b"rubbish\n" + path.read_bytes())
    with pytest.raises(ValueError, match="line 1 is damaged; pass --restart"):
        Journal(tmp_path, {"k": [1, 2]})
    with Journal(tmp_path, {"k": 3}, restart=True) as journal:
        assert journal.batches == {}


def write_results(folder, results):
    path = folder / "results.json"
    path.write_text(results if isinstance(results, str) else json.dumps(results))
    return path


def score(split, results, *more):
    return main(["score", "--annotations", str(split[0]), "--results", str(results), "--no-java", *map(str, more)])


def test_score_anybodys_results(split, tmp_path, capsys):
    results = write_results(tmp_path, [{"image_id": 100 + n, "caption": "a dog runs"} for n in range(PICTURES - 2)])
    out = tmp_path / "scores.json"
    assert score(split, results, "--out", out) == 0
    printed = capsys.readouterr()
    assert "warning: 2 of 7 pictures have no result: the scores are those of the other 5" in printed.err
    header, row = printed.out.splitlines()[:2]
    assert header.split() == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert row.split()[0] == "100.0"  # "a dog runs" against "two children play", as long, and "a dog runs on the grass"
    scores = read(out)
    assert scores["metrics"]["Bleu_3"] == pytest.approx(1)
    assert (scores["pictures"], scores["missing"], scores["results"]) == (5, 2, "results.json")


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        ("[", "not JSON"),
        ({"image_id": 1}, 'must be a list of {"image_id", "caption"}, got dict'),
        ([], "holds no captions"),
        (["a dog"], "[0] must be an object, got str"),
        ([{"image_id": "100", "caption": "a"}], "[0].image_id must be an integer, got '100'"),
        ([{"image_id": 100}], "[0].caption must be a string, got None"),
        ([{"image_id": 100, "caption": "a"}] * 2, "[1].image_id 100 is in the file twice"),
        ([{"image_id": 5, "caption": "a"}], "image_id 5 is not in "),
        ([{"image_id": n, "caption": "a"} for n in (100, 5, 6)], "image_id 5 and 1 more are not in "),
    ],
)
def test_wrong_results_name_file_and_entry(split, tmp_path, capsys, results, complaint):
    assert score(split, write_results(tmp_path, results)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "results.json: " in error
    assert complaint in error


def test_eval_does_not_import_torch():
    code = (
        "import sys, eval.__main__; print([n for n in sys.modules if n.split('.')[0] in ('torch', 'training', 'grpc')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_searches_differ_only_in_beam_size(tiny_bundle, split, tmp_path):
    out = tmp_path / "out"
    assert main(flags(tiny_bundle, split, out, "--length-power", "0.7", "--beam-size", "5", "--limit", "1")) == 0
    captioner = Captioner.load(tiny_bundle, threads=1)
    options = SearchOptions(5, captioner.bundle.search.max_words, 1, 0.7)
    best = captioner.caption_batch([split[1] / "0.png"], options)[0][0]
    assert read(out / "captions.json") == [{"image_id": 100, "caption": best.text}]
