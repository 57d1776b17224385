"""Score a file of COCO results that anybody wrote.

    python -m eval score --annotations captions_val2017.json --results captions.json --out scores.json

Beside scores.json comes pictures.json, the scores of each picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from captioner.atomic import write_json
from eval.bootstrap import differences
from eval.coco import load_split
from eval.metrics import TOKENIZER, all_scores, tokenized
from eval.metrics.cider import DocumentFrequencies
from eval.results import honest_table, load_results, provenance, table, warn
from eval.scoring import Also, check, evaluate, known_only


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval score`."""
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="captions in COCO's or Karpathy's layout")
    add("--results", type=Path, required=True, help='[{"image_id", "caption"}, ...]')
    add("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    add("--out", type=Path, help="write the scores to this JSON file, and pictures.json beside it")
    add("--against", type=Path, help="other results of the same pictures: a paired bootstrap of the difference")
    add_scoring_arguments(parser)


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that scores captions."""
    add = parser.add_argument
    add("--document-frequencies", type=Path, metavar="FILE",
        help="for CIDEr, from `python -m eval frequencies`; default: the pictures that are scored")  # fmt: skip
    add("--neighbours", type=Path, metavar="RESULTS", help="nearest neighbours' captions, for a row in the table")
    add("--training-annotations", type=Path, help="captions trained on: how many captions are copies")
    add("--instances", type=Path, help="boxes in COCO's layout: objects that are not there, looks at persons")
    add("--no-java", action="store_true", help="leave out METEOR and SPICE")
    add("--check", type=Path, metavar="SCORES", help="compare with this scores.json, and fail if a number differs")


def also_of(args: argparse.Namespace) -> Also:
    """The choices of add_scoring_arguments."""
    rows = {"nearest neighbour": load_results(args.neighbours)} if args.neighbours else None
    return Also(args.document_frequencies, not args.no_java, rows, args.training_annotations, args.instances)


def main(args: argparse.Namespace) -> None:
    """Score, print, write."""
    split = load_split(args.annotations, Path(), args.split)
    references = split.references
    if not references:
        raise ValueError(f"{split.name} holds no captions to score against")
    results = load_results(args.results)
    try:
        scored = known_only(results, split)
        if not scored:
            raise ValueError(f"none of the {len(results)} results is of a picture with captions")
    except ValueError as e:
        raise ValueError(f"{args.results}: {e}") from e
    if left_out := len(results) - len(scored):
        warn(f"{left_out} of {len(results)} results are not scored: their pictures have no captions")
    if missing := len(references) - len(scored):
        warn(f"{missing} of {len(references)} pictures have no result: the scores are those of the other {len(scored)}")
    found = evaluate(scored, split, also_of(args))
    counts = {"results": args.results.name, "pictures": len(scored), "missing": missing}
    scores = {**found.scores, **counts, **provenance(split)}
    print(honest_table(scores))
    if args.against:
        scores["against"] = {"results": args.against.name, "metrics": _against(args, scored, references)}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, scores)
        write_json(args.out.with_name("pictures.json"), found.pictures)
    if args.check:
        print(f"{check(scores, args.check)} scores equal those of {args.check}")


def _against(
    args: argparse.Namespace, results: dict[int, str], references: dict[int, list[str]]
) -> dict[str, dict[str, float]]:
    """Print and return the differences; the other file has to hold the same pictures."""
    others = {image_id: caption for image_id, caption in load_results(args.against).items() if image_id in references}
    if others.keys() != results.keys():
        apart = len(others.keys() ^ results.keys())
        raise ValueError(f"{args.against}: {apart} pictures are only in one of the two results: nothing is paired")
    frequencies = DocumentFrequencies.load(args.document_frequencies, TOKENIZER) if args.document_frequencies else None
    pair = [all_scores(tokenized(captions, references).corpus, frequencies) for captions in (results, others)]
    found = differences(*pair)
    rows = [["", "difference x 100", "95 % interval", "p"]]
    for name, d in found.items():
        rows.append(
            [name, f"{100 * d.difference:+.2f}", f"{100 * d.low:+.2f} to {100 * d.high:+.2f}", f"{d.p_value:.3f}"]
        )
    print(f"\nless {args.against}, paired bootstrap over pictures:\n{table(rows)}")
    return {name: vars(d) for name, d in found.items()}
