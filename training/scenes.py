"""Drawn scenes: coloured shapes in places, with captions and boxes that are known. The test bed for the whole path.

A scene has one or two shapes on a speckled ground, in two of four places. Its captions name both, once in each order:
"a red circle at the top left and a blue square at the bottom right". Files are in COCO's layout:
`captions_{split}.json`, `instances_{split}.json` (a box for each shape, its category "red circle"), pictures in
`{split}/`; questions about them (training.scene_questions) in VQA v2's: `questions_{split}.json`,
`annotations_{split}.json`.
"""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from captioner.atomic import write_json

SIDE = 64
"""Pixels."""
COLOURS = {
    "red": (214, 48, 49),
    "green": (39, 174, 96),
    "blue": (41, 98, 255),
    "yellow": (255, 214, 0),
    "purple": (142, 36, 170),
    "orange": (251, 120, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("at the top left", "at the top right", "at the bottom left", "at the bottom right")
"""Row by row on a 2 x 2 grid."""
PICTURES = {"train": 6000, "val": 500}
_SMOOTH = 4  # drawn so many times larger, then scaled down


def draw_splits(folder: Path, pictures: dict[str, int] = PICTURES) -> None:
    """Draw what is missing of each split, and write its questions; the same every time."""
    from training.scene_questions import write_questions  # which needs this file

    for n, (split, count) in enumerate(pictures.items()):
        if not (folder / f"captions_{split}.json").exists():
            _draw_split(folder, split, count, first_id=1 + n * 1_000_000)
        if not (folder / f"annotations_{split}.json").exists():
            write_questions(folder, split)


def _draw_split(folder: Path, split: str, count: int, first_id: int) -> None:
    (folder / split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    categories = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    for image_id in tqdm(range(first_id, first_id + count), desc=f"drawing {split}", unit="pictures", leave=False):
        picture, shapes = draw_scene(np.random.default_rng(image_id))
        name = f"{image_id:08d}.png"
        temporary = folder / split / f".{os.getpid()}.png"  # under torchrun every process draws
        picture.save(temporary, compress_level=0)  # speckles hardly compress
        os.replace(temporary, folder / split / name)
        images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
        for order in permutations(shapes):
            text = " and ".join(f"{_article(shape)} {shape['name']} {shape['place']}" for shape in order)
            captions.append({"id": len(captions), "image_id": image_id, "caption": text})
        for shape in shapes:
            category = 1 + categories.index(shape["name"])
            box = {"bbox": shape["box"], "area": shape["box"][2] * shape["box"][3], "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1, "image_id": image_id, "category_id": category, **box})
    named = [{"id": n + 1, "name": name, "supercategory": name.split()[1]} for n, name in enumerate(categories)]
    write_json(folder / f"instances_{split}.json", {"images": images, "annotations": boxes, "categories": named})
    write_json(folder / f"captions_{split}.json", {"images": images, "annotations": captions})


def draw_scene(random: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A picture, and its shapes as {"name", "place", "box": [x, y, width, height] in pixels}."""
    ground = random.integers(200, 240, 3) + random.integers(-12, 13, (SIDE, SIDE, 1))
    canvas = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).resize(
        (SIDE * _SMOOTH,) * 2, Image.Resampling.NEAREST
    )
    pencil = ImageDraw.Draw(canvas)
    shapes = []
    for place in random.choice(len(PLACES), size=random.integers(1, 3), replace=False):
        colour, shape = random.choice(list(COLOURS)), str(random.choice(SHAPES))
        size = random.integers(20, 29)
        cell = SIDE / 2
        x, y = (int(place % 2 * cell + random.uniform(0.5, cell - size - 0.5)),
                int(place // 2 * cell + random.uniform(0.5, cell - size - 0.5)))  # fmt: skip
        box = [x, y, int(size), int(size)]
        _draw(pencil, shape, [v * _SMOOTH for v in box], COLOURS[colour])
        shapes.append({"name": f"{colour} {shape}", "place": PLACES[place], "box": box})
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX), shapes


def _article(shape: dict[str, Any]) -> str:
    return "an" if shape["name"][0] in "aeiou" else "a"


def _draw(pencil: ImageDraw.ImageDraw, shape: str, box: list[int], colour: tuple[int, int, int]) -> None:
    x, y, width, height = box
    right, bottom, third = x + width - 1, y + height - 1, width / 3  # Pillow paints the last pixel too
    if shape == "circle":
        pencil.ellipse((x, y, right, bottom), fill=colour)
    elif shape == "square":
        pencil.rectangle((x, y, right, bottom), fill=colour)
    elif shape == "triangle":
        pencil.polygon([(x, bottom), (x + width / 2, y), (right, bottom)], fill=colour)
    else:
        pencil.rectangle((x + third, y, right - third, bottom), fill=colour)
        pencil.rectangle((x, y + third, right, bottom - third), fill=colour)
