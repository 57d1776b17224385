"""Caption metrics with coco-caption's semantics, one file each, and the one call that computes them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from captioner.tokens import tokenize
from eval.metrics.bleu import bleu

Tokens = Sequence[str]
Metric = Callable[[Sequence[Tokens], Sequence[Sequence[Tokens]]], dict[str, float]]

METRICS: dict[str, Metric] = {"Bleu": bleu}
"""Each takes one candidate and the references per picture, and names its own scores."""

IMPLEMENTATION = "eval.metrics, coco-caption semantics (BLEU with the closest reference length)"
TOKENIZER = "captioner.tokens, Penn Treebank conventions as in coco-caption"


def score_captions(candidates: Mapping[int, str], references: Mapping[int, Sequence[str]]) -> dict[str, float]:
    """Every metric over one caption per picture, by image id; pictures without a candidate are left out.

    A candidate without references is a ValueError, and so is an empty set of candidates.
    """
    if not candidates:
        raise ValueError("there is no caption to score")
    for image_id in candidates:
        if not references.get(image_id):
            raise ValueError(f"picture {image_id} has a caption and no reference to score it against")
    image_ids = sorted(candidates)
    candidate_tokens = [tokenize(candidates[image_id]) for image_id in image_ids]
    reference_tokens = [[tokenize(text) for text in references[image_id]] for image_id in image_ids]
    scores: dict[str, float] = {}
    for metric in METRICS.values():
        scores |= metric(candidate_tokens, reference_tokens)
    return scores
