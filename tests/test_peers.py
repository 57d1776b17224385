"""`python -m eval peers` and `footprint`: turns, ratios and medians; transformers with tiny sizes where it is there."""

from __future__ import annotations

import json
import os
from functools import partial
from statistics import median

import pytest

from eval import footprint, peers
from eval.__main__ import main
from eval.speed import generated_photo

TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "image_size": 32, "patch_size": 16}  # fmt: skip
TINY_GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
TINY_TEXT = {"vocab_size": 60, "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16,
             "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 16, "bos_token_id": 1,
             "sep_token_id": 2, "pad_token_id": 0}  # fmt: skip


def test_medians_and_ratios():
    times = {"captioner": [2.0, 30.0, 1.0], "other": [10.0, 14.0, 500.0]}
    found = peers.compare(times, {"captioner": 9, "other": 20})
    assert found["caption_ms"] == {"captioner": 2.0, "other": 14.0}
    assert found["times_ours"] == {"other": 7.0}
    assert found["range_ms"]["other"] == [10.0, 500.0]
    assert peers.peers_table(found).splitlines()[2].split() == ["other", "14.0", "10.0-500.0", "20", "7.0"]


def ready(path: str, name: str):
    """A contestant that writes its name and its process down."""

    def caption() -> int:
        with open(path, "a") as file:
            file.write(f"{name} {os.getpid()}\n")
        return 3

    return caption


def test_they_take_turns_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "SETTLE_S", 0)
    path = tmp_path / "turns"
    contestants = {name: partial(ready, str(path), name) for name in ("a", "b")}
    times, words = peers.measure(contestants, repeats=3)
    turns = [line.split() for line in path.read_text().splitlines()]
    assert [name for name, _ in turns] == ["a", "b"] * (3 + peers.WARM_UP)
    assert len({process for _, process in turns} - {str(os.getpid())}) == 2
    assert {name: len(own) for name, own in times.items()} == {"a": 3, "b": 3}
    assert words == {"a": 3, "b": 3}


def broken():
    """A contestant that cannot start."""
    raise OSError("no weights")


def killed():
    """One whose process ends."""
    os._exit(3)


@pytest.mark.parametrize(("contestant", "why"), [(broken, "OSError: no weights"), (killed, "its process ended")])
def test_a_peer_that_fails_is_a_sentence(contestant, why):
    with pytest.raises(ValueError, match=f"other: {why}"):
        peers.measure({"other": contestant}, repeats=1)


def test_ours_says_how_many_words(tiny_bundle):
    words = peers.ours(tiny_bundle, generated_photo(), threads=1)()
    assert 1 <= words <= peers.WORDS


@pytest.mark.parametrize(
    "contestant",
    [
        partial(peers.vit_gpt2, vit=TINY_VIT, gpt2=TINY_GPT2),
        partial(peers.blip, text=TINY_TEXT, vision=TINY_VIT),
    ],
    ids=["vit_gpt2", "blip"],
)
def test_transformers_makes_as_many_tokens_as_asked(contestant, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed (captioner[peers])")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    assert contestant(generated_photo(), 1)() == peers.WORDS


def test_the_whole_command(tiny_bundle, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed (captioner[peers])")
    monkeypatch.setattr(peers, "SETTLE_S", 0)
    sizes = {"vit_gpt2": {"vit": TINY_VIT, "gpt2": TINY_GPT2}, "blip_base": {"text": TINY_TEXT, "vision": TINY_VIT}}
    monkeypatch.setattr(peers, "SIZES", sizes)
    out = tmp_path / "peers.json"
    flags = ["peers", "--bundle", str(tiny_bundle), "--repeats", "1", "--threads", "1", "--out", str(out)]
    assert main(flags) == 0
    report = json.loads(out.read_text())
    assert set(report["times_ours"]) == {"vit_gpt2", "blip_base"}
    assert report["words"]["vit_gpt2"] == report["words"]["blip_base"] == 20
    assert {"transformers", "torch"} == set(report["versions"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(report["caption_ms"])


def test_without_transformers_a_sentence_says_so(tiny_bundle, monkeypatch, capsys):
    def missing(name: str) -> str:
        raise peers.PackageNotFoundError(name)

    monkeypatch.setattr(peers, "version", missing)
    assert main(["peers", "--bundle", str(tiny_bundle)]) == 1
    assert "transformers is not installed: install captioner[peers]" in capsys.readouterr().err


def test_footprint_of_a_bundle(tiny_bundle_answers, tmp_path, capsys):
    out = tmp_path / "footprint.json"
    flags = ["footprint", "--bundle", str(tiny_bundle_answers), "--repeats", "1", "--threads", "1", "--out", str(out)]
    assert main(flags) == 0
    report = json.loads(out.read_text())
    assert report["bytes"] == sum(path.stat().st_size for path in tiny_bundle_answers.iterdir())
    assert report["cold_s"] > report["import_s"] + report["load_s"] + report["first_caption_ms"] / 1000
    for name in ("caption", "answer"):
        assert report[f"first_{name}_ms"] > 0
        assert report[f"warm_{name}_ms"] > 0
    if report["peak_memory_mb"] is not None:
        assert report["peak_memory_mb"] >= report["steady_memory_mb"] > 10
    assert "medians of 1 processes" in capsys.readouterr().out


def test_medians_of_processes():
    runs = [{"load_s": value, "peak_memory_mb": None if value == 2 else 9.0} for value in (1.0, 2.0, 30.0)]
    assert footprint.medians(runs) == {"load_s": median((1.0, 2.0, 30.0)), "peak_memory_mb": None}


def test_wrong_flags(tiny_bundle, capsys):
    for command in ("peers", "footprint"):
        assert main([command, "--bundle", str(tiny_bundle), "--repeats", "0"]) == 1
        assert "--repeats must be at least 1, got 0" in capsys.readouterr().err
