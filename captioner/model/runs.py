"""What a training run has left: its network, its words, its settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.config import ModelConfig
from captioner.lexicon import Lexicon
from captioner.model.network import Network


def network_of_run(run: Path) -> tuple[Network, Lexicon, dict[str, Any]]:
    """The best weights of a training run, its words and its run.json; ValueError names what is missing."""
    for name in ("run.json", "best.safetensors"):
        if not (run / name).is_file():
            raise ValueError(f"{run} is not a training run with a finished epoch: {name} is missing")
    settings = json.loads((run / "run.json").read_text())
    config = ModelConfig.from_dict(settings["recipe"]["model"])
    try:
        lexicon = Lexicon.load(run, config)
    except FileNotFoundError as e:
        raise ValueError(f"{run} is not a training run with a finished epoch: {e.filename} is missing") from e
    return Network.load(config, run / "best.safetensors", **lexicon.sizes), lexicon, settings


def take_heads(network: Network, lexicon: Lexicon, run: Path) -> None:
    """Give a network the captioner and the answerer of a training run, as far as both have them; the encoder stays.

    ValueError if a head's words or sizes are others, or if there is no such head.
    """
    other, theirs, _ = network_of_run(run)
    heads: dict[str, Tensor] = {}
    if network.config.captions and other.config.captions:
        if theirs.captions.words != lexicon.captions.words:
            raise ValueError(f"the captioner of {run} knows other words than those of this data")
        heads |= _head(other, "decoder")
    if network.answerer is not None and other.answerer is not None:
        if (theirs.questions.words, theirs.answers) != (lexicon.questions.words, lexicon.answers):
            raise ValueError(f"the answerer of {run} knows other words or answers than those of this data")
        heads |= _head(other, "answerer")
    if not heads:
        raise ValueError(f"{run} has neither a captioner nor an answerer to begin with here")
    try:
        network.load_state({**network.state(), **heads})
    except RuntimeError as e:
        raise ValueError(f"the heads of {run} have other sizes: {str(e).splitlines()[-1].strip()}") from e


def joined(
    captions: Network, captions_lexicon: Lexicon, answers: Network, answers_lexicon: Lexicon
) -> tuple[Network, Lexicon]:
    """One network that captions and answers, of two with the same encoder (the second's frozen); else a ValueError."""
    if not captions.config.captions or captions.config.answerer is not None:
        raise ValueError("the first run must write captions and answer no questions")
    if answers.config.answerer is None:
        raise ValueError("the second run must answer questions")
    one, two = captions.encoder.state_dict(), answers.encoder.state_dict()
    settings = [(c.encoder, c.encoder_stage, c.preprocessing) for c in (captions.config, answers.config)]
    if settings[0] != settings[1] or any(not torch.equal(one[name], two[name]) for name in one):
        raise ValueError("the two runs must have the same encoder with the same weights")
    lexicon = replace(answers_lexicon, captions=captions_lexicon.captions)
    config = replace(captions.config, answerer=answers.config.answerer)
    words, questions = len(lexicon.captions), len(lexicon.questions)
    network = Network(config, words, question_words=questions, answers=len(lexicon.answers))
    network.load_state({**captions.state(), **_head(answers, "answerer")})
    return network.eval(), lexicon


def _head(network: Network, name: str) -> dict[str, Tensor]:
    return {key: value for key, value in network.state().items() if key.startswith(f"{name}.")}
