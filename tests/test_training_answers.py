"""Tiny runs that learn to answer: with captions, in dialogs, stopped and continued."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest

from captioner.model.runs import network_of_run
from tests import tiny_visdial
from tests.test_resume import assert_same_run
from tests.tiny_training import metrics, run, tiny_both, tiny_dialog
from training import loop
from training.recipes import RECIPES
from training.splits import lexicon_of, load


@pytest.fixture(scope="module")
def both(tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("both")
    return out, run(tiny_both(), tiny_data, out, 1e9)


def test_captions_and_answers_are_learnt_and_kept_together(both, tiny_data):
    out, best = both
    lines = metrics(out)
    assert all(0 <= line["accuracy"] <= 1 and 0 <= line["Bleu_4"] <= 1 for line in lines)
    assert best["Bleu_4 + accuracy"] == pytest.approx(best["Bleu_4"] + best["accuracy"])
    assert lines[1]["loss"] < lines[0]["loss"]
    network, lexicon, settings = network_of_run(out)
    assert lexicon.sizes == network.sizes
    assert {"yes", "no", "red", "circle", "top left", "1"} <= set(lexicon.answers)
    assert network.answerer is not None
    assert network.answerer.score.classify.out_features == len(lexicon.answers)
    assert settings["recipe"]["train_questions"][0]["questions"] == "questions_train.json"


def test_a_run_of_both_stopped_in_an_epoch_is_bit_for_bit_the_same(both, tiny_data, tmp_path, monkeypatch):
    train_step = loop._Run._train_step

    def step(self, batch):
        if self.step == 5 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt
        return train_step(self, batch)

    monkeypatch.setattr(loop._Run, "_train_step", step)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(tiny_both(), tiny_data, out)
    run(tiny_both(), tiny_data, out)
    assert_same_run(out, both[0])


def test_dialogs_are_ranked(tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data / "train", data / "train")
    names = sorted(int(path.stem) for path in (data / "train").iterdir())[:6]
    dialogs = tiny_visdial.visdial(names)
    tiny_visdial.write(data, "dialogs.json", dialogs)
    tiny_visdial.write(data, "dense.json", tiny_visdial.dense(dialogs))
    best = run(tiny_dialog(), data, tmp_path / "out", 1e9)
    assert {"mrr", "r@1", "r@5", "r@10", "mean_rank", "ndcg"} <= set(best)
    assert 0.2 <= best["mrr"] <= 1  # the rank is at most 5
    assert 1 <= best["mean_rank"] <= 5
    assert math.isfinite(json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])["loss"])


def test_words_and_answers_come_from_training_questions_alone(tiny_data):
    recipe = tiny_both()
    data = load(recipe, tiny_data)
    lexicon = lexicon_of(recipe, data)
    assert {"what", "colour", "many", "corner"} <= set(lexicon.questions.words)
    assert len(lexicon_of(replace(recipe, most_answers=3), data).answers) == 3
    assert len(lexicon_of(replace(recipe, min_question_count=40), data).questions) < len(lexicon.questions)


def test_recipes_need_the_files_of_what_they_learn():
    recipe = RECIPES["scenes_both"]()
    for values, complaint in [
        ({"train": None}, "files of captions if its model writes captions"),
        ({"train_questions": ()}, "files of questions if its model has an answerer"),
        ({"validation_questions": None}, "questions for validation"),
        ({"most_answers": 0}, "most_answers must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            replace(recipe, **values)
