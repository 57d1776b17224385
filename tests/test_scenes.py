"""Drawn scenes: what the captions and boxes say is what is in the picture."""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from eval.coco import load_split
from training.scenes import COLOURS, PLACES, SHAPES, SIDE, draw_scene, draw_splits

PICTURES = {"train": 12, "val": 5}
SEEDS = range(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    draw_splits(folder, PICTURES)
    return folder


def scene(seed):
    return draw_scene(np.random.default_rng(seed))


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_every_time(folder, tmp_path):
    draw_splits(tmp_path, PICTURES)
    assert files(tmp_path) == files(folder)
    assert len(files(folder)) == 12 + 5 + 8


def test_only_what_is_missing_is_drawn(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    draw_splits(folder, PICTURES)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == before


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_hold_the_coloured_pixels_and_fit_them(seed):
    picture, shapes = scene(seed)
    rgb_HW3 = np.asarray(picture).astype(int)
    painted_HW = np.ptp(rgb_HW3, axis=2) > 45  # the ground is nearly grey: its channels differ by 39 at most
    boxed_HW = np.zeros_like(painted_HW)
    for shape in shapes:
        x, y, width, height = shape["box"]
        assert x >= 0
        assert y >= 0
        assert x + width <= SIDE
        assert y + height <= SIDE
        inside_hw = painted_HW[y : y + height, x : x + width]
        assert inside_hw.any(axis=0).mean() > 0.7  # a star is narrower than its box, and its points are faint
        assert inside_hw.any(axis=1).mean() > 0.7
        boxed_HW[y : y + height, x : x + width] = True
    assert not (painted_HW & ~boxed_HW).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_places_and_colours_are_those_of_the_picture(seed):
    picture, shapes = scene(seed)
    assert 1 <= len(shapes) <= 2
    assert len({shape["place"] for shape in shapes}) == len(shapes)
    for shape in shapes:
        x, y, width, height = shape["box"]
        column, row = (x + width / 2) // (SIDE / 2), (y + height / 2) // (SIDE / 2)
        assert shape["place"] == PLACES[int(2 * row + column)]
        colour, form = shape["name"].split()
        assert form in SHAPES
        assert picture.getpixel((x + width // 2, y + height // 2)) == COLOURS[colour]


def test_captions_name_both_shapes_in_both_orders(folder):
    instances = json.loads((folder / "instances_train.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    assert sorted(names.values()) == sorted(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
    two = 0
    for picture in load_split(folder / "captions_train.json", folder / "train").pictures:
        own = [names[a["category_id"]] for a in instances["annotations"] if a["image_id"] == picture.image_id]
        phrases = [caption.split(" and ") for caption in picture.captions]
        assert len(phrases) == len(own)
        assert all(sorted(phrase) == sorted(phrases[0]) for phrase in phrases)
        assert all(name in phrase for name, phrase in zip(own, phrases[0], strict=True))
        assert all(phrase.split()[0] == ("an" if "orange" in phrase else "a") for phrase in phrases[0])
        if len(own) == 2:
            two += 1
            assert phrases[0] == phrases[1][::-1]
        with Image.open(picture.path) as image:
            assert image.size == (SIDE, SIDE)
    assert 0 < two < 12


def test_the_splits_share_no_picture(folder):
    ids = [{p.image_id for p in load_split(folder / f"captions_{s}.json", folder).pictures} for s in PICTURES]
    assert all(not a & b for a, b in pairwise(ids))
