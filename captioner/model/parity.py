"""Torch against onnxruntime on real pictures: same words, same scores, or the export does not finish.

Shapes: B pictures, H x W pixels, P grid cells, C channels, K beams, T steps, N questions, Q words of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from captioner.config import SearchOptions
from captioner.engine import Session
from captioner.model import graphs, search
from captioner.model.network import Network
from captioner.vocabulary import PAD

TOLERANCE = 1e-4
CASES = tuple(
    (batch, SearchOptions(k, steps, wanted, power))
    for batch, k, steps, wanted, power in (
        (1, 1, 20, 1, 0.0), (1, 3, 16, 3, 0.0), (1, 7, 20, 7, 0.7), (1, 20, 30, 3, 0.0),
        (8, 1, 16, 1, 0.0), (8, 3, 12, 1, 1.0), (8, 7, 20, 3, 0.0), (8, 20, 20, 20, 0.7),
    )
)  # fmt: skip
"""Batch sizes and options that are compared."""


ANSWER_TOLERANCE = 1e-5
QUESTIONS = tuple((batch, longest) for batch in (1, 16) for longest in (1, 2, 8, 30))
"""Numbers of questions in a run, and of words in the longest, that are compared."""


class ParityError(RuntimeError):
    """The exported graphs do not say what torch says."""


@dataclass(frozen=True)
class Difference:
    """The largest differences of one case."""

    batch: int
    options: SearchOptions
    grid: float
    scores: float
    attention: float
    same_words: bool


@dataclass(frozen=True)
class AnswerDifference:
    """The largest differences of one case."""

    questions: int
    words: int
    probabilities: float
    attention: float


def compare(network: Network, folder: Path, photos: Sequence[NDArray[np.uint8]]) -> list[Difference]:
    """Every case of captions with photos uint8 [H, W, 3]; raises ParityError on the first that differs.

    The grids may differ by 1e-4 of their largest value (fused kernels round otherwise); the search is compared on one
    and the same grid, where words must be equal and scores and maps within 1e-4.
    """
    encoder, captioner = Session(folder / graphs.ENCODER), Session(folder / graphs.CAPTIONER)
    return [_compare(network, encoder, captioner, photos, *case) for case in CASES]


@torch.inference_mode()
def _compare(
    network: Network,
    encoder: Session,
    captioner: Session,
    photos: Sequence[NDArray[np.uint8]],
    batch: int,
    options: SearchOptions,
) -> Difference:
    pixels_BHW3 = np.stack([photos[n % len(photos)] for n in range(batch)])
    grid_BPC = network.encoder(torch.from_numpy(pixels_BHW3))
    (ort_grid_BPC,) = encoder.run(["grid"], {"pixels": pixels_BHW3})
    grid = float(np.abs(ort_grid_BPC - grid_BPC.numpy()).max() / max(1.0, float(grid_BPC.abs().max())))
    found = network.find(grid_BPC, options)
    extra = search.inputs(options.beam_size, options.max_words, options.length_power, options.captions)
    feed = {name: x.numpy() for name, x in zip(graphs.SEARCH_INPUTS, (grid_BPC, *extra), strict=True)}
    soft = network.config.attention != "none"
    outputs = captioner.run(graphs.SEARCH_OUTPUTS if soft else graphs.SEARCH_OUTPUTS[:-1], feed)
    n = options.captions
    words_BNT, each_BNT, _, scores_BN = (x[:, :n] for x in outputs[:4])
    real_BN = found.log_probs_BK[:, :n].numpy() > search.NEVER / 10
    off = [
        np.abs(each_BNT - found.word_log_probs_BKT[:, :n].numpy()),
        np.abs(scores_BN - found.scores_BK[:, :n].numpy()),
    ]
    scores = float(np.max([x[real_BN].max() for x in off]))
    maps = float(np.abs(outputs[4][:, :n] - found.attention_BKTP[:, :n].numpy())[real_BN].max()) if soft else 0.0
    same = bool((words_BNT == found.words_BKT[:, :n].numpy())[real_BN].all())
    difference = Difference(batch, options, grid, scores, maps, same)
    if not (same and all(x <= TOLERANCE for x in (grid, scores, maps))):  # NaN fails too
        raise ParityError(f"onnxruntime and torch differ by more than {TOLERANCE}: {difference}")
    return difference


@torch.inference_mode()
def compare_answers(network: Network, folder: Path, photos: Sequence[NDArray[np.uint8]]) -> list[AnswerDifference]:
    """Every case of answers with random questions, on one and the same grid; raises ParityError where two differ.

    Probabilities and maps must be within 1e-5.
    """
    assert network.answerer is not None
    config, session = network.answerer.config, Session(folder / graphs.ANSWERER)
    grid_BPC = network.encoder(torch.from_numpy(np.stack(photos)))
    random = np.random.default_rng(0)
    found = []
    for count, longest in QUESTIONS:
        words = network.answerer.embed.num_embeddings
        question_NQ, history_NQ = random.integers(1, words, (2, count, longest))
        for n in range(1, count):  # lengths from 0 words on
            question_NQ[n, n % longest :] = history_NQ[n, n * 7 % longest :] = PAD
        given = {
            "grid": grid_BPC.numpy(),
            "question": question_NQ,
            "picture": random.integers(0, len(grid_BPC), count),
            "history": history_NQ,
            "candidates": random.integers(1, words, (5, 3)),
        }
        feed = {name: given[name] for name in graphs.answer_inputs(config)}
        log_probs_NA, *maps_NP = graphs.AnswerGraph(network.answerer)(*map(torch.from_numpy, feed.values()))
        expected = [log_probs_NA.exp(), *maps_NP]
        outputs = session.run(graphs.answer_outputs(config), feed)
        outputs[0] = np.exp(outputs[0])
        off = [float(np.abs(x - y.numpy()).max()) for x, y in zip(outputs, expected, strict=True)]
        difference = AnswerDifference(count, longest, off[0], off[1] if len(off) > 1 else 0.0)
        if not all(x <= ANSWER_TOLERANCE for x in off):  # NaN fails too
            raise ParityError(f"onnxruntime and torch differ by more than {ANSWER_TOLERANCE}: {difference}")
        found.append(difference)
    return found
