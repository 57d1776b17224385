"""A report of one evaluation in one HTML file that opens by itself: scores, the curve over k, pictures, provenance.

    python -m eval report --run FOLDER --annotations captions_val2017.json --pictures val2017 --bundle B

FOLDER is what `python -m eval captions` wrote. With the bundle, its captions are made again for the pictures shown, to
see where the model looked for each word.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captioner.atomic import write_text
from captioner.captioner import Captioner
from captioner.figure import spread
from captioner.images import BadImage, read_photo
from captioner.results import Caption
from captioner.tokens import sentence
from eval.coco import CaptionSplit, CocoPicture, load_split
from eval.report_page import Example, Group, MappedWord, metric_title, page
from eval.results import load_results, warn

ORDER = ("CIDEr", "Bleu_4", "ROUGE_L")
"""Best and worst are by the first of these that there is; the others part ties."""
SEED = 0
LONG_SIDE = 320
"""Of a photo in the report, in pixels."""
QUALITY = 75
MOST = 40
"""Examples in a group: three groups of them, with their maps, make about 4 MB."""
FINE = 4
"""Pixels of a shade per cell of the grid; the browser smooths between them."""
DARKEST = 0.82
"""How much of the photo a shade hides where the model did not look."""
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
    add("--run", type=Path, required=True, help="the folder that an evaluation wrote")
    add("--annotations", type=Path, required=True, help="captions in COCO's or Karpathy's layout")
    add("--pictures", type=Path, required=True, help="the folder that the annotations' file names are in")
    add("--bundle", type=Path, help="the model of the run, to show where it looked")
    add("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    add("--examples", type=int, default=12, help=f"best, worst and random pictures each, in [1, {MOST}]; default: 12")
    add("--out", type=Path, help="default: report.html in the run's folder")


def main(args: argparse.Namespace) -> None:
    """Read, choose, look, write."""
    if not 1 <= args.examples <= MOST:
        raise ValueError(f"--examples must be in [1, {MOST}], got {args.examples}")
    scores = _read(args.run / "scores.json", dict)
    errors_file = args.run / "errors.json"
    errors = _read(errors_file, list) if errors_file.exists() else []
    scored = load_scored(args.run, str(scores.get("results", "captions.json")))
    pictures = _pictures(scored, load_split(args.annotations, args.pictures, args.split), args.run)
    chosen = choose(scored, args.examples)
    shown = {own.image_id: pictures[own.image_id] for choice in chosen for own in choice.scored}
    photos = _photos(list(shown.values()))
    captions = look(args.bundle, scores, {i: shown[i].path for i in photos}) if args.bundle else {}
    if changed := sum(captions[s.image_id].text != s.caption for s in scored if s.image_id in captions):
        warn(f"{changed} of {len(captions)} captions come out otherwise when made again and are shown without maps")
    groups = [
        Group(c.title, c.rule, tuple(_example(own, pictures[own.image_id], photos, captions) for own in c.scored))
        for c in chosen
    ]
    out = args.out or args.run / "report.html"
    write_text(out, page(scores, groups, [error for error in errors if isinstance(error, dict)]))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


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


def shade(map_RC: NDArray[np.float32]) -> str:
    """Data URI of a PNG that hides the photo where the map is low: night all over, its alpha the lack of attention."""
    rows, columns = map_RC.shape
    light_hw = spread(rows, FINE * rows) @ map_RC.astype(np.float64) @ spread(columns, FINE * columns).T
    alpha_hw = 255 * DARKEST * (1 - light_hw / max(light_hw.max(), 1e-12))
    pixels_hw2 = np.stack([np.full_like(alpha_hw, 20), alpha_hw], axis=-1)
    return _data_uri(Image.fromarray(np.rint(pixels_hw2).astype(np.uint8), "LA"), "PNG", optimize=True)


def _photos(pictures: Sequence[CocoPicture]) -> dict[int, Image.Image]:
    """Small photos by image id, without those that cannot be read."""
    photos, first = {}, None
    for picture in pictures:
        try:
            photo = Image.fromarray(read_photo(picture.path, needed=(LONG_SIDE, LONG_SIDE)))
        except (BadImage, OSError) as e:
            first = first or f"{picture.path}: {e.strerror if isinstance(e, OSError) else e}"
            continue
        scale = LONG_SIDE / max(photo.size)
        size = max(1, round(scale * photo.width)), max(1, round(scale * photo.height))
        photos[picture.image_id] = photo.resize(size, Image.Resampling.LANCZOS)
    if not photos:
        raise ValueError(f"none of the {len(pictures)} photos to show can be read; the first: {first}")
    return photos


def _data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"


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
        _data_uri(photo, "JPEG", quality=QUALITY, optimize=True) if photo else None,
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
