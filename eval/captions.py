"""Caption a whole split with a bundle, by the engine that serves, and score it.

    python -m eval captions --bundle B --annotations captions_val2017.json --pictures val2017 --out FOLDER

FOLDER gets captions.json (COCO results), scores.json and, if pictures could not be read, errors.json. With several
--beam-size each picture is encoded once and searched by each: captions.k7.json and so on. A killed run goes on where
it was when the command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from captioner.atomic import write_json
from captioner.captioner import Captioner
from captioner.config import SearchOptions
from captioner.images import BadImage
from eval.coco import CaptionSplit, CocoPicture, load_split, present
from eval.journal import SETTINGS, Journal
from eval.results import provenance, score_results, score_table, warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval captions`."""
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="the model's folder")
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
    add("--threads", type=int, help="default: all cores")
    add("--restart", action="store_true", help="throw away what a run with other settings left in the folder")


def main(args: argparse.Namespace) -> None:
    """Caption, write, score, print."""
    for name in ("batch_size", "limit", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
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
        for old in (*args.out.glob("captions*.json"), args.out / "scores.json", args.out / "errors.json"):
            old.unlink(missing_ok=True)
    with Journal(args.out, settings, args.restart) as journal:
        caption_batches(captioner, batches, searches, journal, args.threads)
        records = [journal.batches[n] for n in range(len(batches))]
    results = [entry for record in records for entry in record["results"]]
    errors = [error for record in records for error in record["errors"]]
    _write_errors(args.out, errors, len(split.pictures))
    if not results:
        raise ValueError(f"none of the {len(errors)} pictures could be read; the first: {errors[0]['message']}")
    run = {
        "errors": len(errors),
        "bundle": captioner.bundle.name,
        "bundle_version": captioner.bundle.version,
        "precision": captioner.precision,
    }
    _write_results(args.out, results, searches, split, captioner.bundle.search, run)


def caption_batches(
    captioner: Captioner,
    batches: Sequence[Sequence[CocoPicture]],
    searches: Sequence[SearchOptions],
    journal: Journal,
    threads: int | None = None,
) -> None:
    """Bring the journal up to date: every batch that is not in it, and those in which a picture could not be read."""
    todo = [n for n in range(len(batches)) if n not in journal.batches or journal.batches[n]["errors"]]
    total = sum(map(len, batches))
    done = total - sum(len(batches[n]) for n in todo)
    with ThreadPoolExecutor(threads) as pool, tqdm(total=total, initial=done, unit="pictures") as bar:
        for n in todo:
            journal.append(n, _caption_batch(captioner, batches[n], searches, pool))
            bar.update(len(batches[n]))


def _caption_batch(
    captioner: Captioner, batch: Sequence[CocoPicture], searches: Sequence[SearchOptions], pool: ThreadPoolExecutor
) -> dict[str, Any]:
    opened = list(pool.map(lambda picture: _open(captioner, picture), batch))
    readable = [
        (picture, pixels) for picture, pixels in zip(batch, opened, strict=True) if not isinstance(pixels, dict)
    ]
    entries: list[dict[str, Any]] = [{"image_id": picture.image_id, "captions": {}} for picture, _ in readable]
    if readable:
        grid_BPC = captioner.encode(np.stack([pixels for _, pixels in readable]))
        for options in searches:
            for entry, found in zip(entries, captioner.search(grid_BPC, options), strict=True):
                entry["captions"][str(options.beam_size)] = found[0].text
    return {"results": entries, "errors": [error for error in opened if isinstance(error, dict)]}


def _open(captioner: Captioner, picture: CocoPicture) -> NDArray[np.uint8] | dict[str, Any]:
    """The picture as the encoder wants it, or why it cannot be had."""
    try:
        return captioner.pixels(picture.path.read_bytes())
    except FileNotFoundError:
        reason, message = "FILE_MISSING", f"there is no file {picture.path}"
    except OSError as e:
        reason, message = "FILE_UNREADABLE", f"{picture.path}: {e.strerror}"
    except BadImage as e:
        reason, message = e.reason, f"{picture.path}: {e}"
    return {"image_id": picture.image_id, "file": picture.path.name, "reason": reason, "message": message}


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


def _write_results(
    folder: Path,
    results: Iterable[dict[str, Any]],
    searches: Sequence[SearchOptions],
    split: CaptionSplit,
    default: SearchOptions,
    run: dict[str, Any],
) -> None:
    references = split.references
    curve: list[dict[str, Any]] = []
    for options in searches:
        k = options.beam_size
        captions = {entry["image_id"]: entry["captions"][str(k)] for entry in results}
        name = "captions.json" if len(searches) == 1 else f"captions.k{k}.json"
        write_json(folder / name, [{"image_id": i, "caption": caption} for i, caption in captions.items()])
        curve.append({"beam_size": k, "metrics": score_results(captions, split), "results": name})
    # One row speaks for the run: the search that the bundle serves with, or else the widest.
    headline = next((row for row in curve if row["beam_size"] == default.beam_size), curve[-1])
    scores = {
        **headline,
        "max_words": searches[0].max_words,
        "length_power": searches[0].length_power,
        "length_rule": "log p(caption) / words ** length_power, the end mark counted",
        "pictures": sum(image_id in references for image_id in captions),
        **run,
        **provenance(split),
    }
    if len(curve) > 1:
        scores["curve"] = curve
    write_json(folder / "scores.json", scores)
    if headline["metrics"]:
        print(score_table([(str(row["beam_size"]), row["metrics"]) for row in curve], "beam size"))
    else:
        warn("nothing is scored: the annotations hold no captions")
