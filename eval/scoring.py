"""Everything that is said of one set of captions: scores.json and pictures.json, as any command writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval import baselines
from eval.bias import gender_bias
from eval.bootstrap import RESAMPLES, intervals
from eval.coco import CaptionSplit, load_split
from eval.java import java_scores
from eval.metrics import TOKENIZER, Tokenized, all_scores, tokenized
from eval.metrics.cider import DocumentFrequencies, fingerprint
from eval.metrics.corpus import Tokens
from eval.metrics.hallucination import chair, load_objects, object_phrases
from eval.metrics.language import language
from eval.metrics.ptb import ptb_tokenize

PER_PICTURE = ("Bleu_4", "ROUGE_L", "CIDEr", "METEOR", "SPICE")
BIAS = (
    "Pictures whose references agree on a gender, by that (rows) and by what the caption says (columns). An error is "
    "the other gender; ratios are women to men; looks are peaks of attention in a person's box at the gendered noun."
)
TOLERANCE = 1e-9
"""Of a score that is computed again."""


@dataclass(frozen=True)
class Also:
    """What is scored beside the captions, by choice."""

    frequencies: Path | None = None
    """Document frequencies for CIDEr, from `python -m eval frequencies`; None: of the pictures being scored."""
    java: bool = True
    """METEOR and SPICE where they can run."""
    rows: Mapping[str, Mapping[int, str]] | None = None
    """Further captions of the same pictures by the name of their row, such as those of nearest neighbours."""
    training: Path | None = None
    """Training captions, in COCO's layout: how many captions are copies of one."""
    instances: Path | None = None
    """COCO instances of the same pictures, for objects that are not there and where persons are."""


@dataclass(frozen=True)
class Scored:
    """The two files."""

    scores: dict[str, Any]
    pictures: list[dict[str, Any]]


def known_only(results: Mapping[int, str], split: CaptionSplit) -> dict[int, str]:
    """The results that have references; one of a picture outside the split is a ValueError."""
    known = {picture.image_id for picture in split.pictures}
    if unknown := [image_id for image_id in results if image_id not in known]:
        more = f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
        raise ValueError(f"image_id {unknown[0]}{more} not in {split.name}")
    references = split.references
    return {image_id: caption for image_id, caption in results.items() if image_id in references}


def evaluate(results: Mapping[int, str], split: CaptionSplit, also: Also) -> Scored:
    """Score captions that all have references (see known_only), and what else the split says of them."""
    frequencies = DocumentFrequencies.load(also.frequencies, TOKENIZER) if also.frequencies else None
    captions = tokenized(results, split.references)
    scores = all_scores(captions.corpus, frequencies)
    java, skipped = java_scores(captions) if also.java else ({}, {})
    metrics = {name: found.value for name, found in scores.items()} | {name: total for name, (total, _) in java.items()}
    each = {name: found.per_picture_N for name, found in scores.items()} | {
        name: own for name, (_, own) in java.items()
    }
    own = dict(zip(captions.image_ids, captions.candidates, strict=True))
    references = dict(zip(captions.image_ids, captions.references, strict=True))
    document = {
        "metrics": metrics,
        "intervals": {name: list(ends) for name, ends in intervals(scores).items()},
        "intervals_are": f"95 %, bootstrap over pictures, {RESAMPLES} resamples",
        "rows": _rows(captions, split, also, frequencies),
        "skipped": skipped,
        "language": language(captions.candidates, _training_captions(also.training)).as_dict(),
        "hallucination": _hallucination(own, references, also.instances),
        "bias": {"about": BIAS, **gender_bias(own, references).as_dict()},
        "document_frequencies": {
            "of": also.frequencies.name if also.frequencies else "the references of the pictures that are scored",
            "pictures": frequencies.pictures if frequencies else len(captions.image_ids),
        },
        "references": {"pictures": len(captions.image_ids), "of": len(split.references),
                       "fingerprint": fingerprint(captions.references)},
    }  # fmt: skip
    pictures = [
        {"image_id": image_id, "caption": results[image_id],
         "scores": {name: round(float(each[name][n]), 6) for name in PER_PICTURE if name in each}}
        for n, image_id in enumerate(captions.image_ids)
    ]  # fmt: skip
    return Scored(document, pictures)


def curve_metrics(results: Mapping[int, str], split: CaptionSplit, also: Also) -> dict[str, float]:
    """The metrics alone."""
    frequencies = DocumentFrequencies.load(also.frequencies, TOKENIZER) if also.frequencies else None
    scores = all_scores(tokenized(results, split.references).corpus, frequencies)
    return {name: found.value for name, found in scores.items()}


def _training_captions(path: Path | None) -> list[Tokens] | None:
    if path is None:
        return None
    captions = load_split(path, Path()).references.values()
    return [ptb_tokenize(text) for own in captions for text in own]


def _hallucination(
    captions: Mapping[int, Tokens], references: Mapping[int, Sequence[Tokens]], instances: Path | None
) -> dict[str, Any] | None:
    """CHAIR of the pictures that the instances file knows; None without the file."""
    if instances is None:
        return None
    names, objects = load_objects(instances)
    known = {image_id: tokens for image_id, tokens in captions.items() if image_id in objects}
    if not known:
        raise ValueError(f"{instances}: knows none of the {len(captions)} pictures")
    found = chair(known, objects, references, object_phrases(names)).as_dict()
    return {"about": "CHAIR with synonyms of our own: i is of the objects named, s of the captions.", **found}


def _rows(
    captions: Tokenized, split: CaptionSplit, also: Also, frequencies: DocumentFrequencies | None
) -> dict[str, dict[str, Any]]:
    rows = {
        "human": baselines.human(captions.references, frequencies),
        "one constant caption": baselines.constant(captions.references, frequencies),
    }
    for name, results in (also.rows or {}).items():
        own = {image_id: results[image_id] for image_id in captions.image_ids if image_id in results}
        if own:
            rows[name] = baselines.Row(curve_metrics(own, split, also), f"{len(own)} pictures")
    return {name: asdict(row) for name, row in rows.items() if row}


def check(scores: Mapping[str, Any], path: Path) -> int:
    """Compare with a scores.json of before; returns how many numbers were compared, ValueError names what differs.

    With other references, document frequencies or another tokeniser the same caption has other scores: a ValueError.
    METEOR and SPICE are compared where they run.
    """
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        old_metrics = dict(old["metrics"])
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: no scores.json: {e}") from e
    for name in ("references", "document_frequencies", "tokenizer"):
        if name in old and old[name] != scores[name]:
            raise ValueError(f"{path}: {name} was {old[name]}, now {scores[name]}: these scores are not comparable")
    now = scores["metrics"]
    pairs = {name: (value, now[name]) for name, value in old_metrics.items() if name in now}
    apart = [
        f"{name} was {old_value:.9f} and is now {value:.9f}"
        for name, (old_value, value) in pairs.items()
        if not math.isclose(old_value, value, rel_tol=0, abs_tol=TOLERANCE)
    ]
    if apart:
        raise ValueError(f"{path}: {'; '.join(apart)}")
    return len(pairs)
