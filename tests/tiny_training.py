"""Runs small enough for a test, and their command: python -m tests.tiny_training tiny --data D --out O."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from captioner.config import AnswererConfig, SearchOptions
from training import recipes
from training.__main__ import main
from training.loop import Places, fit
from training.recipes import QuestionFiles, Recipe
from training.scenes import draw_splits

PICTURES = {"train": 24, "val": 8}
KILLED_PICTURES = {"train": 3000, "val": 200}
STEPS = 9
"""Of tiny and tiny_frozen: three batches of 8 pictures, twice on captions and once on rewards."""


def tiny() -> Recipe:
    """Scenes with next to no units: batch norm, dropout, averaged weights and rewards are all there."""
    recipe = recipes.scenes()
    stage = {"encoder": "resnet18", "encoder_stage": "layer2", "attention": "soft", "dropout": 0.1}
    sizes = {"hidden_size": 16, "embed_size": 16, "feature_size": 16, "attention_size": 8}
    options = SearchOptions(beam_size=2, max_words=12)
    return replace(
        recipe, model=replace(recipe.model, **stage, **sizes), epochs=2, batch_pictures=8, learning_rate=0.02,
        encoder_learning_rate=1e-3, warmup_steps=2, average_decay=0.9, fine_tune="all", self_critical_epochs=1,
        self_critical_warmup_steps=1, validate_with=options,
    )  # fmt: skip


def tiny_frozen() -> Recipe:
    """A frozen encoder and nothing random: several processes do what one does."""
    recipe = tiny()
    return replace(recipe, model=replace(recipe.model, dropout=0.0), fine_tune=None, views=2, doubly_stochastic=0.1)


def tiny_both() -> Recipe:
    """Captions and answers on one encoder that trains with them."""
    recipe, both = tiny(), recipes.scenes_both()
    answerer = AnswererConfig(embed_size=8, hidden_size=8, fusion_size=8, attention_size=4, dropout=0.1)
    return replace(
        recipe, model=replace(recipe.model, answerer=answerer), train_questions=both.train_questions,
        validation_questions=both.validation_questions, keep_best_by=both.keep_best_by, word_dropout=0.1,
    )  # fmt: skip


def tiny_dialog() -> Recipe:
    """Dialogs about scenes: a score for each of a question's own candidates, no captions."""
    recipe = tiny()
    answerer = AnswererConfig("jabri", embed_size=8, hidden_size=8, layers=1, fusion_size=8, history=True)
    files = QuestionFiles("dialogs.json", None, "train", "{image_id:08d}.png", dialogs=True)
    return replace(
        recipe, model=replace(recipe.model, captions=False, answerer=answerer), train=None, validation=None,
        train_questions=(files,), validation_questions=replace(files, annotations="dense.json"), fine_tune=None,
        self_critical_epochs=0, keep_best_by="mrr",
    )  # fmt: skip


def killed() -> Recipe:
    """What tests.kill_and_resume trains, for a minute or so: all that a checkpoint has to keep is there."""
    recipe = recipes.scenes()
    return replace(
        recipe, model=replace(recipe.model, dropout=0.1), epochs=2, batch_pictures=32, fine_tune="all", views=2,
        self_critical_epochs=1, average_decay=0.99,
    )  # fmt: skip


def draw(folder: Path, pictures: dict[str, int] = PICTURES) -> Path:
    """A few scenes; returns the folder."""
    draw_splits(folder, pictures)
    return folder


def run(
    recipe: Recipe, data: Path, out: Path, checkpoint_seconds: float = 0.0, heads: Path | None = None
) -> dict[str, float]:
    """Train on the CPU with one thread; features lie in the run's folder."""
    torch.set_num_threads(1)
    return fit(recipe, Places(data, out, out / "features", heads=heads), torch.device("cpu"), checkpoint_seconds)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines that a run wrote, one an epoch."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Everything in a checkpoint's state by its place, tensors as their bytes: two states can then be compared."""
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in leaves(inner, f"{place}/{key}").items()}
    return {place: value.numpy().tobytes() if isinstance(value, torch.Tensor) else value}


if __name__ == "__main__":
    recipes.RECIPES.update(tiny=tiny, tiny_frozen=tiny_frozen, killed=killed)
    sys.exit(main())
