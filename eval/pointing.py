"""The pointing game: does attention, when it says a thing's name, lie on the thing? (Zhang et al., 2018)

    python -m eval pointing --bundle B --instances instances_val.json --pictures val

A hit is a word whose map peaks inside a box of its category. A category of several words ("red circle") is named where
they follow each other, and counted once, at its last word. With --questions it is answers that point:
eval/answer_pointing.py.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from captioner.atomic import write_json
from captioner.captioner import Captioner
from captioner.images import BadImage
from captioner.results import Caption
from captioner.tokens import tokenize
from eval.results import commit, warn

BATCH = 32
Box = tuple[float, float, float, float]
"""x, y, width, height as shares of the picture."""


@dataclass(frozen=True)
class Boxed:
    """A picture and its boxes by the tokens of their category's name."""

    image_id: int
    path: Path
    boxes: dict[tuple[str, ...], list[Box]]


def load_boxes(instances: Path, pictures: Path) -> list[Boxed]:
    """Pictures of a COCO instances file that have a box; ValueError names the missing field."""
    try:
        document = json.loads(instances.read_text(encoding="utf-8"))
        names = {category["id"]: tuple(tokenize(category["name"])) for category in document["categories"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
        boxes: dict[int, dict[tuple[str, ...], list[Box]]] = defaultdict(lambda: defaultdict(list))
        for annotation in document["annotations"]:
            width, height = sizes[annotation["image_id"]]
            x, y, box_width, box_height = annotation["bbox"]
            box = (x / width, y / height, box_width / width, box_height / height)
            boxes[annotation["image_id"]][names[annotation["category_id"]]].append(box)
        return [
            Boxed(image["id"], pictures / image["file_name"], dict(boxes[image["id"]]))
            for image in document["images"]
            if image["id"] in boxes
        ]
    except KeyError as e:
        raise ValueError(f"{instances}: no instances in COCO's layout: {e} is missing or unknown") from e
    except json.JSONDecodeError as e:
        raise ValueError(f"{instances}: not JSON: {e}") from e


def peak(map_RC: NDArray[np.float32]) -> tuple[float, float]:
    """Centre of the cell that was looked at most: (x, y) as shares of the picture."""
    rows, columns = map_RC.shape
    row, column = np.unravel_index(int(map_RC.argmax()), map_RC.shape)
    return (float(column) + 0.5) / columns, (float(row) + 0.5) / rows


def inside(place: tuple[float, float], boxes: Iterable[Box]) -> bool:
    """Whether (x, y) lies in one of the boxes, their edges counted."""
    x, y = place
    return any(left <= x <= left + width and top <= y <= top + height for left, top, width, height in boxes)


def hits(caption: Caption, picture: Boxed) -> list[bool]:
    """One entry each time the caption names a category of the picture: whether its word's peak is in a box of it."""
    words = [word.text for word in caption.words]
    found = []
    for name, boxes in picture.boxes.items():
        for end in range(len(name), len(words) + 1):
            if tuple(words[end - len(name) : end]) == name:
                attention = caption.words[end - 1].attention
                assert attention is not None
                found.append(inside(peak(attention), boxes))
    return found


def chance(pictures: Iterable[Boxed]) -> float:
    """Mean share of a picture that a category's boxes cover: what pointing at random would hit (overlaps count)."""
    shares = [min(1.0, sum(w * h for _, _, w, h in boxes)) for p in pictures for boxes in p.boxes.values()]
    return float(np.mean(shares))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval pointing`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; it must have attention; default: the box")
    add("--instances", type=Path, help="boxes in COCO's layout, for captions")
    add("--questions", type=Path, help="questions in the VQA layout, for answers; --annotations have the boxes")
    add("--annotations", type=Path, help="their annotations")
    add("--naming", help='the pictures\' file names, as "image{image_id}.jpg"; default: as the questions file says')
    add("--pictures", type=Path, required=True, help="the folder that the file names are in")
    add("--precision", choices=("int8", "fp32"), help="default: int8 if the bundle has it")
    add("--limit", type=int, help="only the first N pictures")
    add("--out", type=Path, help="write the result to this JSON file")


def main(args: argparse.Namespace) -> None:
    """Caption or answer, look where the peaks are, print."""
    if args.questions:
        from eval import answer_pointing  # it imports this module

        if args.instances or not args.annotations:
            raise ValueError("--questions has its boxes in --annotations, not in --instances")
        answer_pointing.main(args)
        return
    if not args.instances:
        raise ValueError("give --instances, for captions, or --questions and --annotations, for answers")
    captioner = Captioner.load(args.bundle, precision=args.precision)
    if captioner.bundle.model.attention == "none":
        raise ValueError(f"bundle {captioner.bundle.name} has no attention to point with")
    pictures = load_boxes(args.instances, args.pictures)[: args.limit]
    if not pictures:
        raise ValueError(f"{args.instances}: no picture has a box")
    found: list[bool] = []
    for start in tqdm(range(0, len(pictures), BATCH), desc="pointing", leave=False):
        batch, pixels = _readable(captioner, pictures[start : start + BATCH])
        if batch:
            captions = captioner.search(captioner.encode(np.stack(pixels)), captioner.bundle.search)
            for picture, best in zip(batch, captions, strict=True):
                found += hits(best[0], picture)
    if not found:
        raise ValueError("no caption names a category of its picture")
    share = float(np.mean(found))
    print(f"{share:.1%} of {len(found)} named things were looked at; a random point would hit {chance(pictures):.1%}")
    if args.out:
        result = {"share": share, "named": len(found), "chance": chance(pictures), "instances": args.instances.name}
        bundle = {"bundle": captioner.bundle.name, "bundle_version": captioner.bundle.version}
        write_json(args.out, {**result, **bundle, "precision": captioner.precision, "commit": commit()})


def _readable(captioner: Captioner, pictures: Sequence[Boxed]) -> tuple[list[Boxed], list[np.ndarray]]:
    batch, pixels = [], []
    for picture in pictures:
        try:
            pixels.append(captioner.pixels(picture.path))
            batch.append(picture)
        except (BadImage, OSError) as e:
            warn(f"{picture.path.name} is left out: {e}")
    return batch, pixels
