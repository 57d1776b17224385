"""How well candidate answers are ranked: VisDial's measures (Das et al., 2017; NDCG as in the VisDial challenge).

    MRR  = mean of 1 / rank of the correct choice;  R@k = share of ranks up to k
    NDCG = mean of DCG / (DCG of the best order),   DCG = sum over places i = 1 ... K of relevance_i / log2(i + 1)

where K is the number of choices of that question with relevance above 0. Ties are broken against the model: choices of
the same score stand before the correct one, or in the order of growing relevance, so a constant score ranks last.
Shapes: N questions, O choices of each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics.scores import Floats, Scores, mean_of

RECALLS = (1, 5, 10)


def ranks(scores_NO: ArrayLike, correct_N: ArrayLike) -> NDArray[np.int64]:
    """The rank of each question's correct choice, 1 if its score is above all others.

    ValueError if the shapes do not fit, a score is not a number or an index is not that of a choice.
    """
    scores_NO, correct_N = _scores(scores_NO), np.asarray(correct_N)
    questions, choices = scores_NO.shape
    if correct_N.shape != (questions,) or not np.issubdtype(correct_N.dtype, np.integer):
        raise ValueError(f"correct must be {questions} integers, got {correct_N.dtype} of shape {correct_N.shape}")
    if outside := [int(n) for n in correct_N if not 0 <= n < choices]:
        raise ValueError(f"correct must be in [0, {choices - 1}], got {outside[0]}")
    own_N1 = scores_NO[np.arange(questions), correct_N, None]
    rank_N: NDArray[np.int64] = (scores_NO >= own_N1).sum(axis=1)  # it counts itself
    return rank_N


def ranking(scores_NO: ArrayLike, correct_N: ArrayLike) -> dict[str, Scores]:
    """MRR, R@1, R@5, R@10 (all in [0, 1]) and mean_rank (1 is best) of the correct choices; see ranks."""
    rank_N = ranks(scores_NO, correct_N)
    recalls = {f"R@{k}": mean_of((rank_N <= k).astype(float)) for k in RECALLS}
    return {"MRR": mean_of(1 / rank_N), **recalls, "mean_rank": mean_of(rank_N.astype(float))}


def ndcg(scores_NO: ArrayLike, relevance_NO: ArrayLike) -> Scores:
    """NDCG in [0, 1] of the questions whose choices have a relevance (at least 0).

    ValueError if the shapes do not fit, a value is not a number, or a question has no relevant choice: its NDCG is 0/0.
    """
    scores_NO, relevance_NO = _scores(scores_NO), np.asarray(relevance_NO, float)
    if relevance_NO.shape != scores_NO.shape:
        raise ValueError(f"relevance must have the scores' shape {scores_NO.shape}, got {relevance_NO.shape}")
    if not (relevance_NO >= 0).all():
        raise ValueError("relevance must be at least 0")
    relevant_N1 = (relevance_NO > 0).sum(axis=1, keepdims=True)
    if not relevant_N1.all():
        raise ValueError(f"question {int(np.argmin(relevant_N1))} of {len(scores_NO)} has no relevant choice")
    place_O = np.arange(scores_NO.shape[1])
    gain_O = 1 / np.log2(place_O + 2)
    order_NO = np.lexsort((relevance_NO, -scores_NO), axis=1)
    counted_NO = place_O < relevant_N1
    dcg_N = (np.take_along_axis(relevance_NO, order_NO, axis=1) * gain_O * counted_NO).sum(axis=1)
    best_N = (np.sort(relevance_NO, axis=1)[:, ::-1] * gain_O).sum(axis=1)
    return mean_of(dcg_N / best_N)


def _scores(scores_NO: ArrayLike) -> Floats:
    scores_NO = np.asarray(scores_NO, float)
    if scores_NO.ndim != 2 or not scores_NO.size:
        raise ValueError(f"scores must have the shape [questions, choices] and hold some, got {scores_NO.shape}")
    if np.isnan(scores_NO).any():
        raise ValueError("scores must be numbers, got NaN")
    return scores_NO
