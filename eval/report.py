"""A report of one evaluation in one HTML file that opens by itself: scores, the curve over k, pictures, provenance.

    python -m eval report --run FOLDER --annotations captions_val2017.json --pictures val2017 --bundle B

    python -m eval report --answers FOLDER --bundle B

FOLDER is what `python -m eval captions` or `answers` wrote; both may be in one report. With the bundle, captions and
answers are made again for the pictures shown, to see where the model looked.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioner.atomic import write_text
from captioner.captioner import Captioner
from captioner.results import Caption
from captioner.tokens import sentence
from eval.coco import CaptionSplit, CocoPicture, load_split
from eval.report_answers import answer_sections, answer_summary
from eval.report_captions import Example, Group, MappedWord, caption_sections, caption_summary
from eval.report_html import Html
from eval.report_page import page
from eval.report_pictures import jpeg, shade, small_photos
from eval.report_questions import load_run, question_groups
from eval.report_tables import metric_title, model_name
from eval.results import load_results, warn

ORDER = ("CIDEr", "Bleu_4", "ROUGE_L")
"""Best and worst are by the first of these that there is; the others part ties."""
SEED = 0
MOST = 40
"""Examples in a group: three groups of them, with their maps, make about 4 MB."""
BATCH = 32


@dataclass(frozen=True)
class Scored:
    """One line of pictures.json; scores are empty if the file is not there."""

    image_id: int
    caption: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """Pictures to show, and by what rule they were chosen."""

    title: str
    rule: str
    scored: list[Scored]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval report`."""
    add = parser.add_argument
    add("--run", type=Path, help="the folder that `eval captions` wrote")
    add("--annotations", type=Path, help="its captions in COCO's or Karpathy's layout")
    add("--pictures", type=Path, help="the folder that the annotations' file names are in")
    add("--answers", type=Path, metavar="RUN", help="the folder that `eval answers` wrote, which knows its own files")
    add("--bundle", type=Path, help="the model of the run, to show where it looked")
    add("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    add("--examples", type=int, default=12, help=f"best, worst and random ones each, in [1, {MOST}]; default: 12")
    add("--out", type=Path, help="default: report.html in the run's folder")


def main(args: argparse.Namespace) -> None:
    """Read, choose, look, write."""
    if not 1 <= args.examples <= MOST:
        raise ValueError(f"--examples must be in [1, {MOST}], got {args.examples}")
    if not args.run and not args.answers:
        raise ValueError("give --run, the folder of `eval captions`, --answers, that of `eval answers`, or both")
    parts, names, summaries = [], [], []
    sections: dict[str, Html | None] = {}
    if args.run:
        scores, found = _captions(args)
        sections |= found
        parts.append("captions")
        names.append(model_name(scores))
        summaries.append(caption_summary(scores))
    if args.answers:
        run = load_run(args.answers)
        sections |= answer_sections(run.scores, question_groups(run, args.bundle, args.examples), run.errors)
        parts.append("answers")
        names.append(model_name(run.scores))
        summaries.append(answer_summary(run.scores))
    title = f"{' and '.join(parts).capitalize()} by {' and '.join(dict.fromkeys(names))}"
    out = args.out or (args.run or args.answers) / "report.html"
    write_text(out, page(title, " ".join(summaries), sections))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def _captions(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Html | None]]:
    """scores.json and the sections of a run of captions."""
    if not args.annotations or not args.pictures:
        raise ValueError("--run needs --annotations and --pictures")
    scores = _read(args.run / "scores.json", dict)
    errors_file = args.run / "errors.json"
    errors = _read(errors_file, list) if errors_file.exists() else []
    scored = load_scored(args.run, str(scores.get("results", "captions.json")))
    pictures = _pictures(scored, load_split(args.annotations, args.pictures, args.split), args.run)
    chosen = choose(scored, args.examples)
    shown = {own.image_id: pictures[own.image_id] for choice in chosen for own in choice.scored}
    photos = small_photos(list(shown.values()))
    captions = look(args.bundle, scores, {i: shown[i].path for i in photos}) if args.bundle else {}
    if changed := sum(captions[s.image_id].text != s.caption for s in scored if s.image_id in captions):
        warn(f"{changed} of {len(captions)} captions come out otherwise when made again and are shown without maps")
    groups = [
        Group(c.title, c.rule, tuple(_example(own, pictures[own.image_id], photos, captions) for own in c.scored))
        for c in chosen
    ]
    return scores, caption_sections(scores, groups, [error for error in errors if isinstance(error, dict)])


def load_scored(run: Path, results: str) -> list[Scored]:
    """Captions of a run, with their own scores if it wrote pictures.json; ValueError if its files disagree."""
    path = run / "pictures.json"
    if not path.exists():
        return [Scored(image_id, caption, {}) for image_id, caption in load_results(run / results).items()]
    captions = load_results(run / results) if (run / results).exists() else None
    found = []
    for n, entry in enumerate(_read(path, list)):
        try:
            scores = {name: float(value) for name, value in entry.get("scores", {}).items()}
            own = Scored(int(entry["image_id"]), str(entry["caption"]), scores)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise ValueError(f'{path}: [{n}] must be {{"image_id", "caption", "scores"}}, got {entry!r:.80}') from e
        if captions is not None and captions.get(own.image_id) != own.caption:
            raise ValueError(
                f"{path}: image_id {own.image_id} has another caption than in {results}: not of the same run"
            )
        found.append(own)
    if not found:
        raise ValueError(f"{path}: holds no pictures")
    return found


def choose(scored: Sequence[Scored], count: int) -> list[Choice]:
    """The best, the worst (no picture is in both), and some at random; the last alone if nothing has a score."""
    choices = []
    by = next((name for name in ORDER if any(name in own.scores for own in scored)), None)
    if by:
        ranked = sorted(
            (own for own in scored if by in own.scores),
            key=lambda own: (*(-own.scores.get(name, 0.0) for name in ORDER), own.image_id),
        )
        best = ranked[: min(count, math.ceil(len(ranked) / 2))]
        worst = ranked[len(best) :][::-1][:count]
        name = metric_title(by)
        choices.append(Choice("Best", f"The highest {name}, best first.", best))
        choices.append(Choice("Worst", f"The lowest {name}, worst first.", worst))
    by_id = sorted(scored, key=lambda own: own.image_id)
    drawn = random.Random(SEED).sample(by_id, min(count, len(by_id)))
    rule = f"{len(drawn)} of {len(scored):,} pictures, drawn without looking: best and worst alone mislead."
    return [*choices, Choice("Random", rule, drawn)]


def look(bundle: Path, scores: Mapping[str, Any], photos: Mapping[int, Path]) -> dict[int, Caption]:
    """The captions of these photos, searched for as the run did; {} if the bundle has no attention."""
    captioner = Captioner.load(bundle, precision=scores.get("precision"))
    made_with = scores.get("bundle_version")
    if made_with and made_with != captioner.bundle.version:
        raise ValueError(f"{bundle}: is version {captioner.bundle.version}, the run was made with {made_with}")
    if captioner.bundle.model.attention == "none":
        warn(f"bundle {captioner.bundle.name} has no attention: the report has no maps")
        return {}
    options = captioner.options(scores.get("beam_size"), scores.get("max_words"), 1, scores.get("length_power"))
    found: dict[int, Caption] = {}
    image_ids = list(photos)
    for start in range(0, len(image_ids), BATCH):
        batch = image_ids[start : start + BATCH]
        grid_BPC = captioner.encode(np.stack([captioner.pixels(photos[i].read_bytes()) for i in batch]))
        found |= {i: best[0] for i, best in zip(batch, captioner.search(grid_BPC, options), strict=True)}
    return found


def _example(
    scored: Scored, picture: CocoPicture, photos: Mapping[int, Image.Image], captions: Mapping[int, Caption]
) -> Example:
    photo, caption = photos.get(scored.image_id), captions.get(scored.image_id)
    words: tuple[MappedWord, ...] = ()
    remark = None
    if caption and caption.text != scored.caption:
        remark = f"No maps: made again, the caption is “{caption.text}”."
    elif caption:
        texts = [word.text for word in caption.words]
        before = [sentence(texts[:n]) for n in range(len(texts) + 1)]
        words = tuple(
            MappedWord(before[n + 1][len(before[n]) :], math.exp(min(0.0, word.log_prob)), shade(word.attention))
            for n, word in enumerate(caption.words)
            if word.attention is not None
        )
    return Example(
        scored.image_id,
        picture.path.name,
        scored.caption,
        picture.captions,
        scored.scores,
        jpeg(photo) if photo else None,
        photo.size if photo else (0, 0),
        words,
        remark,
    )


def _pictures(scored: Sequence[Scored], split: CaptionSplit, run: Path) -> dict[int, CocoPicture]:
    known = {picture.image_id: picture for picture in split.pictures}
    for own in scored:
        if own.image_id not in known:
            raise ValueError(
                f"{run}: image_id {own.image_id} is not in {split.annotations}: other annotations or split"
            )
    return known


def _read(path: Path, kind: type) -> Any:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ValueError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise ValueError(f"{path}: not JSON: {e}") from e
    if not isinstance(document, kind):
        raise ValueError(f"{path}: must hold JSON of type {kind.__name__}, got {type(document).__name__}")
    return document
