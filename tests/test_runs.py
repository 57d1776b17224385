"""What a training run has left, and two runs in one network."""

import json
import sys
from dataclasses import asdict, replace

import pytest
import torch

from captioner.config import ModelConfig, Preprocessing, SearchOptions
from captioner.model import export
from captioner.model.network import Network
from captioner.model.runs import joined, network_of_run, take_heads
from captioner.vocabulary import Vocabulary
from tests.conftest import TINY, TINY_ANSWERER, TINY_WORDS, tiny_network, tiny_photos

ANSWERS_ALONE = replace(TINY, captions=False, answerer=TINY_ANSWERER)


def write_run(folder, config: ModelConfig) -> Network:
    network = tiny_network(config)
    settings = {"recipe": {"model": config.to_dict(), "search": asdict(SearchOptions())}, "data": "nowhere"}
    (folder / "run.json").write_text(json.dumps(settings))
    TINY_WORDS.save(folder, config)
    network.save(folder / "best.safetensors")
    return network


def test_network_of_run(tmp_path):
    config = replace(TINY, encoder="squeezenet1_1", positions=True)
    network = write_run(tmp_path, config)
    loaded, lexicon, settings = network_of_run(tmp_path)
    assert (loaded.config, lexicon.captions.words, settings["data"]) == (config, TINY_WORDS.captions.words, "nowhere")
    assert not loaded.training
    torch.testing.assert_close(loaded.state(), network.state())


@pytest.mark.parametrize("name", ["run.json", "vocabulary.json", "best.safetensors"])
def test_an_unfinished_run_is_named(tmp_path, monkeypatch, capsys, name):
    write_run(tmp_path, TINY)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"is not a training run with a finished epoch: .*{name} is missing"):
        network_of_run(tmp_path)
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path), "--out", str(tmp_path / "bundle")])
    assert export.main() == 1
    assert f"{name} is missing" in capsys.readouterr().err


def test_two_runs_on_one_encoder_become_one_network():
    captions, answers = tiny_network(TINY), tiny_network(ANSWERS_ALONE, seed=1)
    answers.encoder.load_state_dict(captions.encoder.state_dict())
    network, lexicon = joined(captions, TINY_WORDS, answers, TINY_WORDS)
    assert network.config == replace(TINY, answerer=TINY_ANSWERER)
    assert lexicon == TINY_WORDS
    grid_BPC = network.encoder(torch.from_numpy(tiny_photos(1)[0])[None])
    found, expected = (one.find(grid_BPC, SearchOptions()) for one in (network, captions))
    assert torch.equal(found.words_BKT, expected.words_BKT)
    question = torch.tensor([[[3, 4, 5]]])
    assert network.answerer is not None
    assert torch.equal(network.answerer(grid_BPC, question).scores_BKA, answers.answerer(grid_BPC, question).scores_BKA)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (TINY, ANSWERS_ALONE, "same encoder with the same weights"),
        (TINY, replace(ANSWERS_ALONE, preprocessing=Preprocessing(64, 96)), "same encoder with the same weights"),
        (ANSWERS_ALONE, ANSWERS_ALONE, "first run must write captions"),
        (replace(TINY, answerer=TINY_ANSWERER), ANSWERS_ALONE, "and answer no questions"),
        (TINY, TINY, "second run must answer"),
    ],
)
def test_runs_that_do_not_fit(first, second, message):
    with pytest.raises(ValueError, match=message):
        joined(tiny_network(first), TINY_WORDS, tiny_network(second, seed=1), TINY_WORDS)


@pytest.mark.parametrize("config", [TINY, ANSWERS_ALONE, replace(TINY, answerer=TINY_ANSWERER)])
def test_a_network_begins_with_another_runs_heads_on_its_own_encoder(tmp_path, config):
    theirs = write_run(tmp_path, config)
    network = tiny_network(replace(TINY, answerer=TINY_ANSWERER), seed=1)
    before = {name: value.clone() for name, value in network.state().items()}
    take_heads(network, TINY_WORDS, tmp_path)
    given = {name: value for name, value in theirs.state().items() if not name.startswith("encoder.")}
    torch.testing.assert_close(network.state(), {**before, **given}, rtol=0, atol=0)


def test_heads_that_do_not_fit(tmp_path):
    write_run(tmp_path, TINY)
    network = tiny_network(TINY)
    others = replace(TINY_WORDS, captions=Vocabulary([*TINY_WORDS.captions.words[:-1], "zebra"]))
    with pytest.raises(ValueError, match=f"captioner of {tmp_path} knows other words"):
        take_heads(network, others, tmp_path)
    with pytest.raises(ValueError, match=f"heads of {tmp_path} have other sizes: .*shape"):
        take_heads(tiny_network(replace(TINY, hidden_size=TINY.hidden_size + 1)), TINY_WORDS, tmp_path)
    with pytest.raises(ValueError, match="has neither a captioner nor an answerer"):
        take_heads(tiny_network(ANSWERS_ALONE), TINY_WORDS, tmp_path)
    write_run(tmp_path, ANSWERS_ALONE)
    with pytest.raises(ValueError, match=f"answerer of {tmp_path} knows other words or answers"):
        take_heads(tiny_network(ANSWERS_ALONE), replace(TINY_WORDS, answers=("no",)), tmp_path)
