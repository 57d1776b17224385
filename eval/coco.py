"""COCO captions, read in one place for training and evaluation.

Two layouts: COCO 2014/2017 itself (one file per split) and Karpathy's dataset_coco.json (all splits in one file).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from eval.fields import field, read_json

KARPATHY_SPLITS = ("train", "restval", "val", "test")


@dataclass(frozen=True)
class CocoPicture:
    """A picture and what people wrote about it."""

    image_id: int
    path: Path
    """Need not exist: see present."""
    captions: tuple[str, ...]
    """As written, in file order; empty for a picture of a test set."""


@dataclass(frozen=True)
class CaptionSplit:
    """The pictures of one split, in file order."""

    annotations: Path
    """The file it was read from."""
    split: str | None
    """The name asked for, such as "train+restval"; None is the whole file."""
    pictures: tuple[CocoPicture, ...]

    @property
    def name(self) -> str:
        """For people."""
        return str(self.annotations) if self.split is None else f"{self.annotations}, split {self.split}"

    @property
    def references(self) -> dict[int, list[str]]:
        """Captions by image id, of the pictures that have any."""
        return {picture.image_id: list(picture.captions) for picture in self.pictures if picture.captions}


def load_split(annotations: Path, pictures: Path, split: str | None = None) -> CaptionSplit:
    """Read captions from a file in either layout; no picture is opened.

    split is for Karpathy's layout only: "val", or several as in "train+restval". Malformed files are a ValueError that
    names the file and the field.
    """
    annotations, pictures = Path(annotations), Path(pictures)
    document = read_json(annotations)
    try:
        images = field(document, "", "images", list)
        if not images:
            raise ValueError("images is empty")
        if isinstance(images[0], dict) and ("sentences" in images[0] or "split" in images[0]):
            found = _karpathy(images, pictures, split)
        elif split is not None:
            raise ValueError(f"no image has a split field, so split {split!r} cannot be picked: leave the split out")
        else:
            found = _coco(document, pictures)
        seen: set[int] = set()
        for picture in found:
            if picture.image_id in seen:
                raise ValueError(f"images has the id {picture.image_id} twice")
            seen.add(picture.image_id)
    except ValueError as e:
        raise ValueError(f"{annotations}: {e}") from e
    return CaptionSplit(annotations, split, tuple(found))


def present(pictures: Iterable[CocoPicture]) -> tuple[list[CocoPicture], list[CocoPicture]]:
    """Part the pictures into (kept, missing): missing ones have no file."""
    kept: list[CocoPicture] = []
    missing: list[CocoPicture] = []
    for picture in pictures:
        (kept if picture.path.is_file() else missing).append(picture)
    return kept, missing


def _coco(document: dict[str, Any], pictures: Path) -> list[CocoPicture]:
    # The files of COCO's test sets (image_info_*.json) have no annotations at all.
    annotations = field(document, "", "annotations", list) if "annotations" in document else []
    for n, image in enumerate(document["images"]):
        field(image, f"images[{n}]", "id", int)
        field(image, f"images[{n}]", "file_name", str)
    known = {image["id"] for image in document["images"]}
    for n, annotation in enumerate(annotations):
        field(annotation, f"annotations[{n}]", "id", int)
        field(annotation, f"annotations[{n}]", "caption", str)
        image_id = field(annotation, f"annotations[{n}]", "image_id", int)
        if image_id not in known:
            raise ValueError(f"annotations[{n}].image_id {image_id} is not among images")
    coco = COCO()
    # Without categories: pycocotools would ask every caption for its category.
    coco.dataset = {"images": document["images"], "annotations": annotations}
    with redirect_stdout(StringIO()):  # it prints its progress
        coco.createIndex()
    return [
        CocoPicture(
            image["id"],
            pictures / image["file_name"],
            tuple(annotation["caption"] for annotation in coco.imgToAnns.get(image["id"], ())),
        )
        for image in document["images"]
    ]


def _karpathy(images: list[Any], pictures: Path, split: str | None) -> list[CocoPicture]:
    wanted = set(KARPATHY_SPLITS if split is None else split.split("+"))
    if unknown := sorted(wanted - set(KARPATHY_SPLITS)):
        raise ValueError(f"split must be made of {', '.join(KARPATHY_SPLITS)} joined by +, got {unknown[0]!r}")
    found = []
    for n, image in enumerate(images):
        where = f"images[{n}]"
        own_split = field(image, where, "split", str)
        if own_split not in KARPATHY_SPLITS:
            raise ValueError(f"{where}.split must be one of {', '.join(KARPATHY_SPLITS)}, got {own_split!r}")
        if own_split not in wanted:
            continue
        folder = field(image, where, "filepath", str) if "filepath" in image else ""
        sentences = field(image, where, "sentences", list)
        captions = tuple(field(s, f"{where}.sentences[{i}]", "raw", str) for i, s in enumerate(sentences))
        # Only COCO's pictures have a cocoid; Flickr's are numbered by imgid.
        image_id = field(image, where, "cocoid" if "cocoid" in image else "imgid", int)
        found.append(CocoPicture(image_id, pictures / folder / field(image, where, "filename", str), captions))
    if not found:
        raise ValueError(f"no image has split {split!r}")
    return found
