"""Caption metrics with coco-caption's semantics, one file each, and the one call that computes them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.metrics.bleu import bleu
from eval.metrics.cider import DocumentFrequencies, cider
from eval.metrics.corpus import Corpus, Tokens
from eval.metrics.ptb import ptb_tokenize
from eval.metrics.rouge import rouge_l
from eval.metrics.scores import Scores

METRICS = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr", "CIDEr_D")
IMPLEMENTATION = "eval.metrics, coco-caption semantics (BLEU with the closest reference length; CIDEr is CIDEr-D)"
TOKENIZER = "eval.metrics.ptb, equal to Stanford CoreNLP 3.4.1's PTBTokenizer as coco-caption runs it"


@dataclass(frozen=True)
class Tokenized:
    """Captions and references of the pictures that have both, as tokens, in the order of image ids."""

    image_ids: list[int]
    candidates: list[Tokens]
    references: list[list[Tokens]]

    @property
    def corpus(self) -> Corpus:
        """What the metrics count."""
        return Corpus(self.candidates, self.references)


def tokenized(candidates: Mapping[int, str], references: Mapping[int, Sequence[str]]) -> Tokenized:
    """One caption per picture, by image id, and its references; pictures without a candidate are left out.

    A candidate without references is a ValueError, and so is an empty set of candidates.
    """
    if not candidates:
        raise ValueError("there is no caption to score")
    for image_id in candidates:
        if not references.get(image_id):
            raise ValueError(f"picture {image_id} has a caption and no reference to score it against")
    image_ids = sorted(candidates)
    counts = [len(references[image_id]) for image_id in image_ids]
    lines = iter(token_lines([text for image_id in image_ids for text in references[image_id]]))
    return Tokenized(
        image_ids,
        token_lines([candidates[image_id] for image_id in image_ids]),
        [[next(lines) for _ in range(count)] for count in counts],
    )


def token_lines(captions: Sequence[str]) -> list[Tokens]:
    """Tokens of each caption; in the order given they are the lines of coco-caption's file (see ptb_tokenize)."""
    lines = [caption.replace("\n", " ") for caption in captions]
    after = ["\n".join(lines[n + 1 : n + 4]) for n in range(len(lines) - 1)]
    return [ptb_tokenize(line, following) for line, following in zip(lines, [*after, None], strict=True)]


def all_scores(corpus: Corpus, frequencies: DocumentFrequencies | None = None) -> dict[str, Scores]:
    """Every metric by its name in METRICS."""
    return {**bleu(corpus), **rouge_l(corpus), **cider(corpus, frequencies)}


def score_captions(candidates: Mapping[int, str], references: Mapping[int, Sequence[str]]) -> dict[str, float]:
    """Every metric over one caption per picture, by image id; see tokenized."""
    return {name: scores.value for name, scores in all_scores(tokenized(candidates, references).corpus).items()}
