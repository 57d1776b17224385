"""A model's first runs, before any call: they fill its caches, show how long it takes, and show that it works."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

import numpy as np

from captioner import Captioner
from captioner.engine import EngineError
from captioner.query import Query
from services.observer import Stage

T = TypeVar("T")
Took = Callable[[Stage, float, int], None]
"""Told the stage, the seconds and the images of each run."""


class WarmUpError(EngineError):
    """The model does not run, or answers nonsense; the message is one sentence."""


def warm_up(captioner: Captioner, max_batch: int, took: Took) -> None:
    """Run each graph on batches of 1, 2, 4 ... max_batch random pictures; raises WarmUpError.

    On a GPU every size is run: there the first run of any shape is slow.
    """
    powers = {2**n for n in range(max_batch.bit_length())}
    sizes = range(1, max_batch + 1) if captioner.provider == "cuda" else sorted(powers | {max_batch})
    for size in sizes:
        try:
            sane = _answers_sensibly(captioner, size, took)
        except Exception as error:  # onnxruntime has a dozen classes for it
            raise WarmUpError(f"model {captioner.bundle.name} failed its warm-up: {error}") from error
        if not sane:
            name = captioner.bundle.name
            raise WarmUpError(f"model {name} answered nonsense in its warm-up, to {size} random pictures")


def _answers_sensibly(captioner: Captioner, size: int, took: Took) -> bool:
    """Run every graph once; whether what comes out are numbers."""

    def timed(stage: Stage, run: Callable[[], T]) -> T:
        begin = monotonic()
        found = run()
        took(stage, monotonic() - begin, size)
        return found

    shape, bundle = captioner.bundle.model.preprocessing, captioner.bundle
    pixels_BHW3 = np.random.default_rng(size).integers(0, 256, (size, shape.height, shape.width, 3), np.uint8)
    grid_BPC = timed("encode", lambda: captioner.encode(pixels_BHW3))
    sane = bool(np.isfinite(grid_BPC).all())
    if "captioner" in bundle.graphs:
        found = timed("search", lambda: captioner.search(grid_BPC, captioner.options()))
        sane &= all(bool(captions) and math.isfinite(captions[0].score) for captions in found)
    if "answerer" in bundle.graphs:
        query = Query("what is this", candidates=() if bundle.answers else ("yes", "no"))
        answered = timed("answer", lambda: captioner.answer_batch(grid_BPC, [query] * size, range(size)))
        sane &= all(bool(each.answers) and math.isfinite(each.answers[0].probability) for each in answered)
    return sane
