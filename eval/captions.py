"""Caption a whole split with a bundle, by the engine that serves, and score it.

    python -m eval captions --bundle B --annotations captions_val2017.json --pictures val2017 --out FOLDER

FOLDER gets captions.json (COCO results), scores.json, throughput.json and, if pictures could not be read, errors.json.
With several --beam-size each picture is encoded once and searched by each: captions.k7.json and so on. A killed run
goes on where it was when the command is given again. With --ray a cluster does it: eval/on_ray.py.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captioner.atomic import write_json
from captioner.captioner import Captioner
from captioner.config import SearchOptions
from captioner.engine import usable_cores
from captioner.results import Caption
from captioner.tokens import tokenize
from eval.bias import GENDERED, Looks, where_it_looks
from eval.coco import CaptionSplit, CocoPicture, load_split, present
from eval.decoding import Decoded, decode_ahead
from eval.journal import SETTINGS, Journal
from eval.pointing import load_boxes
from eval.results import curve_table, honest_table, provenance, warn
from eval.score import add_scoring_arguments, also_of
from eval.scoring import Scored, check, curve_metrics, evaluate, known_only
from eval.stopwatch import Stopwatch, throughput_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval captions`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; default: the box")
    add("--annotations", type=Path, required=True, help="captions in COCO's or Karpathy's layout")
    add("--pictures", type=Path, required=True, help="the folder that the annotations' file names are in")
    add("--out", type=Path, required=True, help="folder for the results; a run found there is gone on with")
    add("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    add("--beam-size", type=int, nargs="+", metavar="K", help="one or several, in [1, 20]; default: the bundle's")
    add("--max-words", type=int, help="longest caption, in [1, 50]; default: the bundle's")
    add("--length-power", type=float, help="rank by log p / length ** power, in [0, 2]; default: the bundle's")
    add("--precision", choices=("int8", "fp32"), help="default: int8 if the bundle has it")
    add("--batch-size", type=int, default=32, help="pictures at a time; default: 32")
    add("--limit", type=int, metavar="N", help="only the first N pictures")
    add("--threads", type=int, help="of the engine; default: all cores")
    add("--workers", type=int, help="processes that decode pictures, 0: none of their own; default: as many as cores")
    add("--ray", metavar="ADDRESS", help='caption on the Ray cluster there, or "local" for one on this machine')
    add("--restart", action="store_true", help="throw away what a run with other settings left in the folder")
    add_scoring_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Caption, write, score, print."""
    for name in ("batch_size", "limit", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.workers is not None and args.ray:
        raise ValueError("--workers is for a run without --ray: on a cluster Ray decides")
    if args.workers is not None and args.workers < 0:
        raise ValueError(f"--workers must be at least 0, got {args.workers}")
    split = load_split(args.annotations, args.pictures, args.split)
    split = replace(split, pictures=split.pictures[: args.limit])
    kept, _ = present(split.pictures)
    if not kept:
        raise ValueError(f"none of the {len(split.pictures)} pictures is there: no file {split.pictures[0].path}")
    captioner = Captioner.load(args.bundle, precision=args.precision, threads=args.threads)
    searches = _searches(captioner, args)
    settings = {
        "bundle": captioner.bundle.name,
        "bundle_version": captioner.bundle.version,
        "precision": captioner.precision,
        "annotations": args.annotations.name,
        "annotations_sha256": hashlib.sha256(args.annotations.read_bytes()).hexdigest(),
        "pictures": str(args.pictures.resolve()),
        "split": args.split,
        "limit": args.limit,
        "batch_size": args.batch_size,
        "beam_size": [options.beam_size for options in searches],
        "max_words": searches[0].max_words,
        "length_power": searches[0].length_power,
    }
    batches = [split.pictures[n : n + args.batch_size] for n in range(0, len(split.pictures), args.batch_size)]
    if args.restart and (args.out / SETTINGS).exists():
        for old in (
            *args.out.glob("captions*.json"),
            *(args.out / f"{n}.json" for n in ("scores", "pictures", "errors", "throughput")),
        ):
            old.unlink(missing_ok=True)
    with Journal(args.out, settings, args.restart) as journal:
        if args.ray:
            from eval import on_ray  # an extra

            report = on_ray.caption_batches(captioner, batches, searches, journal, args.ray, args.threads)
        else:
            report = caption_batches(captioner, batches, searches, journal, args.workers)
        records = [journal.batches[n] for n in range(len(batches))]
    results = [entry for record in records for entry in record["results"]]
    errors = [error for record in records for error in record["errors"]]
    if report["pictures"]:
        write_json(args.out / "throughput.json", report)
        print(throughput_line(report))
    _write_errors(args.out, errors, len(split.pictures))
    if not results:
        raise ValueError(f"none of the {len(errors)} pictures could be read; the first: {errors[0]['message']}")
    run = {
        "errors": len(errors),
        "bundle": captioner.bundle.name,
        "bundle_version": captioner.bundle.version,
        "precision": captioner.precision,
    }
    _write_results(args, captioner, results, searches, split, run)


def unfinished(journal: Journal, batches: Sequence[object]) -> list[int]:
    """Every batch that is not in the journal, and those in which a picture could not be read."""
    return [n for n in range(len(batches)) if n not in journal.batches or journal.batches[n]["errors"]]


def progress(batches: Sequence[Sequence[CocoPicture]], todo: Iterable[int]) -> tqdm[Any]:
    """A bar that counts pictures, those of earlier attempts included, with the rate of this one."""
    total = sum(map(len, batches))
    return tqdm(total=total, initial=total - sum(len(batches[n]) for n in todo), unit="pictures")


def caption_batches(
    captioner: Captioner,
    batches: Sequence[Sequence[CocoPicture]],
    searches: Sequence[SearchOptions],
    journal: Journal,
    workers: int | None = None,
) -> dict[str, Any]:
    """Bring the journal up to date; returns the throughput. workers: see decode_ahead; None is one per usable core."""
    watch = Stopwatch()
    todo = unfinished(journal, batches)
    paths = [[picture.path for picture in batches[n]] for n in todo]
    workers = usable_cores() if workers is None else workers
    ahead = decode_ahead(paths, captioner.bundle.model.preprocessing, workers)
    with closing(ahead), progress(batches, todo) as bar:
        for n in todo:
            with watch.stage("waiting for pictures"):
                decoded = next(ahead)
            journal.append(n, caption_batch(captioner, batches[n], decoded, searches, watch))
            bar.update(len(batches[n]))
    return watch.report(sum(len(batches[n]) for n in todo))


def caption_batch(
    captioner: Captioner,
    batch: Sequence[CocoPicture],
    decoded: Decoded,
    searches: Sequence[SearchOptions],
    watch: Stopwatch,
) -> dict[str, Any]:
    """The journal's record of a batch: a result for every picture that could be read, an error for every other."""
    readable = [picture for place, picture in enumerate(batch) if place not in decoded.unreadable]
    results: list[dict[str, Any]] = [{"image_id": picture.image_id, "captions": {}} for picture in readable]
    if readable:
        with watch.stage("encoding"):
            grid_BPC = captioner.encode(decoded.pixels_BHW3)
        with watch.stage("searching"):
            for options in searches:
                for result, found in zip(results, captioner.search(grid_BPC, options), strict=True):
                    result["captions"][str(options.beam_size)] = found[0].text
    errors = [
        {"image_id": batch[place].image_id, "file": batch[place].path.name, **vars(why)}
        for place, why in decoded.unreadable.items()
    ]
    return {"results": results, "errors": errors}


def _searches(captioner: Captioner, args: argparse.Namespace) -> list[SearchOptions]:
    """One search per beam size, smallest first."""
    beam_sizes = sorted(set(args.beam_size or [captioner.bundle.search.beam_size]))
    return [captioner.options(beam_size, args.max_words, 1, args.length_power) for beam_size in beam_sizes]


def _write_errors(folder: Path, errors: Sequence[dict[str, Any]], total: int) -> None:
    if errors:
        write_json(folder / "errors.json", errors)
        warn(f"{len(errors)} of {total} pictures could not be read and are left out: see {folder / 'errors.json'}")
    else:
        (folder / "errors.json").unlink(missing_ok=True)  # an earlier attempt's


def _looks(
    captioner: Captioner, searches: Sequence[SearchOptions], beam_size: int, captions: dict[int, str],
    args: argparse.Namespace,
) -> Looks | None:  # fmt: skip
    """Whether attention lies on persons: captions that say a gender are made again, with their maps."""
    options = next(options for options in searches if options.beam_size == beam_size)
    boxed = [picture for picture in load_boxes(args.instances, args.pictures) if picture.image_id in captions]
    gendered = [picture for picture in boxed if GENDERED & set(tokenize(captions[picture.image_id]))]
    batches = [gendered[n : n + args.batch_size] for n in range(0, len(gendered), args.batch_size)]
    paths = [[picture.path for picture in batch] for batch in batches]
    attention: dict[int, Caption] = {}
    with closing(decode_ahead(paths, captioner.bundle.model.preprocessing, args.workers or 0)) as ahead:
        for batch, decoded in zip(batches, ahead, strict=True):
            readable = [picture for n, picture in enumerate(batch) if n not in decoded.unreadable]
            if readable:
                found = captioner.search(captioner.encode(decoded.pixels_BHW3), options)
                attention |= {picture.image_id: best[0] for picture, best in zip(readable, found, strict=True)}
    return where_it_looks(attention, boxed)


def _write_results(
    args: argparse.Namespace,
    captioner: Captioner,
    results: Iterable[dict[str, Any]],
    searches: Sequence[SearchOptions],
    split: CaptionSplit,
    run: dict[str, Any],
) -> None:
    folder, also, references = args.out, also_of(args), split.references
    curve: list[dict[str, Any]] = []
    by_k: dict[int, dict[int, str]] = {}
    for options in searches:
        k = options.beam_size
        captions = {entry["image_id"]: entry["captions"][str(k)] for entry in results}
        name = "captions.json" if len(searches) == 1 else f"captions.k{k}.json"
        write_json(folder / name, [{"image_id": i, "caption": caption} for i, caption in captions.items()])
        by_k[k] = known_only(captions, split)
        metrics = curve_metrics(by_k[k], split, also) if by_k[k] else {}
        curve.append({"beam_size": k, "metrics": metrics, "results": name})
    # One row speaks for the run: the search that the bundle serves with, or else the widest.
    headline = next((row for row in curve if row["beam_size"] == captioner.bundle.search.beam_size), curve[-1])
    spoken = by_k[headline["beam_size"]]
    found = evaluate(spoken, split, also) if spoken else Scored({}, [])
    if spoken and args.instances and captioner.bundle.model.attention != "none":
        looks = _looks(captioner, searches, headline["beam_size"], spoken, args)
        found.scores["bias"]["looks"] = asdict(looks) if looks else None
    scores = {
        **headline,
        **found.scores,
        "max_words": searches[0].max_words,
        "length_power": searches[0].length_power,
        "length_rule": "log p(caption) / words ** length_power, the end mark counted",
        "pictures": len(spoken),
        **run,
        **provenance(split),
    }
    if len(curve) > 1:
        scores["curve"] = curve
    write_json(folder / "scores.json", scores)
    if not references:
        warn("nothing is scored: the annotations hold no captions")
        return
    write_json(folder / "pictures.json", found.pictures)
    if len(curve) > 1:
        print(f"{curve_table(curve)}\n\nbeam size {headline['beam_size']}:")
    print(honest_table(scores))
    if args.check:
        print(f"{check(scores, args.check)} scores equal those of {args.check}")
