"""A run from end to end: what it leaves, what it refuses, and that two processes train as one."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from captioner.model.network import Network
from captioner.vocabulary import Vocabulary
from eval.metrics import METRICS
from tests.conftest import ROOT
from tests.tiny_training import STEPS, metrics, run, tiny, tiny_frozen
from training import loop, recipes
from training.recipes import RECIPES, Recipe


def test_a_run_leaves_its_weights_settings_and_measurements(straight):
    out, best = straight
    first, second, third = metrics(out)
    assert [(line["epoch"], line["step"]) for line in (first, second, third)] == [(1, 3), (2, 6), (3, STEPS)]
    assert second["loss"] < first["loss"]
    assert 0 <= third["sampled_Bleu_4"] <= 1
    kept = [line for line in (first, second, third) if line["kept"]][-1]
    assert best == {name: kept[name] for name in ("epoch", *METRICS)}
    vocabulary = Vocabulary.load(out / "vocabulary.json")
    settings = json.loads((out / "run.json").read_text())
    assert settings["recipe"]["model"]["hidden_size"] == 16
    assert settings["grid"] == [8, 8, 128]
    network = Network.load(tiny().model, out / "best.safetensors", len(vocabulary))
    assert all(torch.isfinite(value).all() for value in network.state().values())
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    assert {path.name for path in out.glob("checkpoint-*.pt")} == {f"checkpoint-{n:09d}.pt" for n in (6, 9)}


def test_a_finished_run_is_not_trained_again(straight, tiny_data, monkeypatch):
    out, best = straight
    monkeypatch.setattr(loop._Run, "_train_step", lambda *_: pytest.fail("a step was made"))
    assert run(tiny(), tiny_data, out) == best


def test_a_run_begins_with_the_captioner_of_another(straight, tiny_data, tmp_path):
    out, _ = straight
    begun = replace(tiny(), epochs=1, self_critical_epochs=0, learning_rate=0.0, encoder_learning_rate=0.0)
    run(begun, tiny_data, tmp_path, heads=out)
    first, kept = (load_file(folder / "best.safetensors") for folder in (tmp_path, out))
    words = "decoder.embed.weight"
    torch.testing.assert_close(first[words], kept[words])
    assert json.loads((tmp_path / "run.json").read_text())["heads"] == str(out)
    with pytest.raises(ValueError, match="was trained with another heads"):
        run(begun, tiny_data, tmp_path)


def test_another_recipe_in_the_same_folder_is_refused(straight, tiny_data):
    out, _ = straight
    with pytest.raises(ValueError, match="was trained with another recipe: use another --out, or delete it"):
        run(replace(tiny(), learning_rate=1e-3), tiny_data, out)
    with pytest.raises(ValueError, match="was trained with another recipe"):
        run(tiny_frozen(), tiny_data, out)


def test_every_run_of_the_project_is_listed():
    made = {
        name for name, value in vars(recipes).items() if getattr(value, "__annotations__", {}) == {"return": "Recipe"}
    }
    assert made == set(RECIPES)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_builds_and_says_how_it_is_run(name):
    recipe = RECIPES[name]()
    assert isinstance(recipe, Recipe)
    assert f"python -m training {name}" in RECIPES[name].__doc__
    small = replace(recipe.model.preprocessing, height=64, width=64)
    network = Network(replace(recipe.model, preprocessing=small), 40, question_words=30, answers=6)
    network.encoder.fine_tune_from(recipe.fine_tune)
    network.eval()
    with torch.inference_mode():
        grid_BPC = network.encoder(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        if recipe.model.captions:
            assert network.find(grid_BPC, recipe.search).words_BKT.shape[0] == 1
        if network.answerer is not None:
            words = torch.tensor([[[7, 8, 0]]])
            candidates = torch.tensor([[4], [5], [6], [7], [8], [9]])
            assert network.answerer(grid_BPC, words, words, candidates).scores_BKA.shape == (1, 1, 6)


def test_recipes_refuse_bad_values():
    for values, complaint in [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"clip_norm": 0.0}, "clip_norm must be at least"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0.0, 0.9\], got 1.0"),
        ({"keep_best_by": "loss"}, "keep_best_by must be one of Bleu_1"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            replace(tiny(), **values)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["flickr8k_attend"], "--data is needed: the folder with captions_train.json"),
        (["flickr8k_attend", "--data", "nowhere"], "nowhere/captions_train.json: cannot be read: No such file"),
        (["nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_the_command_says_what_is_missing(flags, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", *flags, "--device", "cpu"])
    monkeypatch.delitem(sys.modules, "training.__main__")  # tests.tiny_training imported it
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("training", run_name="__main__")
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "TrainingLoss", lambda *_: lambda step: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0: lower learning_rate"):
        run(tiny(), tiny_data, tmp_path)


@pytest.mark.parametrize("recipe", [tiny, tiny_frozen])
def test_two_processes_train_as_one(recipe, tiny_data, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    flags = ["--data", tiny_data, "--out", tmp_path / "two", "--device", "cpu", "--checkpoint-seconds", "0"]
    command = [*torchrun, "-m", "tests.tiny_training", recipe.__name__, *map(str, flags)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=one_thread, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Bleu_4") == 1
    run(recipe(), tiny_data, tmp_path / "one")
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert [(line["epoch"], line["step"]) for line in two] == [(1, 3), (2, 6), (3, STEPS)]
    # The mean over processes of means over words is nearly the mean over words. Batch norm of half the pictures is
    # another thing, and so is dropout.
    near = 0.02 if recipe is tiny_frozen else 0.15
    assert [line["loss"] for line in two[:2]] == pytest.approx([line["loss"] for line in one[:2]], rel=near)
