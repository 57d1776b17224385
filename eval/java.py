"""METEOR and SPICE by their authors' own Java programs, through pycocoevalcap; left out in one sentence where they
cannot run. There is no version of ours: another implementation gives other numbers.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.metrics import Tokenized
from eval.metrics.scores import Floats, mean_of

Found = tuple[float, Floats]
"""The metric of all pictures, and of each [N]."""


def java_scores(captions: Tokenized) -> tuple[dict[str, Found], dict[str, str]]:
    """(METEOR and SPICE where they run, and why not by name where they do not)."""
    try:
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.spice import spice
    except ImportError:
        why = "pycocoevalcap is not installed: install captioner[java]"
        return {}, {"METEOR": why, "SPICE": why}
    if not shutil.which("java"):
        why = "there is no java on the path"
        return {}, {"METEOR": why, "SPICE": why}
    found, skipped = {}, {}
    found["METEOR"] = _run(Meteor(), captions)
    if list((Path(spice.__file__).parent / "lib").glob("stanford-corenlp-*-models.jar")):
        _, each_N = _run(spice.Spice(), captions)
        found["SPICE"] = mean_of(each_N).value, each_N
    else:
        skipped["SPICE"] = (
            "pycocoevalcap has not fetched its Stanford models, about 400 MB: see its get_stanford_models"
        )
    return found, skipped


def _run(scorer: object, captions: Tokenized) -> Found:
    """Any scorer of pycocoevalcap on our tokens, which are the same as its own."""
    candidates = {n: [" ".join(tokens)] for n, tokens in enumerate(captions.candidates)}
    references = {n: [" ".join(tokens) for tokens in own] for n, own in enumerate(captions.references)}
    with contextlib.redirect_stdout(io.StringIO()):
        total, each = scorer.compute_score(references, candidates)  # type: ignore[attr-defined]
    return float(total), np.array(_numbers(each))


def _numbers(each: Sequence[object]) -> list[float]:
    return [entry["All"]["f"] if isinstance(entry, dict) else float(entry) for entry in each]  # type: ignore[arg-type]
