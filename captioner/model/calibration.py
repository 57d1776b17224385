"""What the graphs see in use, so that their activations get the right int8 scales.

Shapes: B pictures, P grid cells, C channels, N questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioner.config import SearchOptions
from captioner.engine import Session
from captioner.lexicon import Lexicon
from captioner.model import graphs, search
from captioner.model.network import Network
from captioner.questions import LONGEST_ANSWER, encode_questions

BATCH = 10
"""Pictures of one example."""
QUESTIONS = 256

Example = dict[str, NDArray[Any]]


def grids(encoder: Path, photos: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """What an encoder's graph makes of photos uint8 [H, W, 3], in batches [B, P, C]."""
    session = Session(encoder)
    batches = [np.stack(photos[n : n + BATCH]) for n in range(0, len(photos), BATCH)]
    return [session.run(["grid"], {"pixels": pixels_BHW3})[0] for pixels_BHW3 in batches]


def search_examples(grids_BPC: Sequence[NDArray[np.float32]], options: SearchOptions) -> list[Example]:
    """Inputs of captioner.onnx: a search with the bundle's own options on every grid."""
    extra = search.inputs(options.beam_size, options.max_words, options.length_power, options.captions)
    fixed = {name: value.numpy() for name, value in zip(graphs.SEARCH_INPUTS[1:], extra, strict=True)}
    return [{"grid": grid_BPC, **fixed} for grid_BPC in grids_BPC]


def answer_examples(
    network: Network, lexicon: Lexicon, grids_BPC: Sequence[NDArray[np.float32]], questions: Sequence[str]
) -> list[Example]:
    """Inputs of answerer.onnx: the questions, dealt out to the pictures; they stand in for histories too."""
    assert network.answerer is not None
    if not questions:
        raise ValueError("calibration needs at least one question, got none")
    names = graphs.answer_inputs(network.answerer.config)
    examples: list[Example] = []
    for n, grid_BPC in enumerate(grids_BPC):
        own = questions[n * QUESTIONS // len(grids_BPC) : (n + 1) * QUESTIONS // len(grids_BPC)] or questions[:1]
        question_NQ = encode_questions(lexicon.questions, own)
        given: Example = {
            "grid": grid_BPC,
            "question": question_NQ,
            "picture": np.arange(len(question_NQ)) % len(grid_BPC),
            "history": question_NQ,
            "candidates": encode_questions(lexicon.questions, lexicon.answers or ["yes"], LONGEST_ANSWER),
        }
        examples.append({name: given[name] for name in names})
    return examples
