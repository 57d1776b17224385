"""Captions that were never written for the picture: those of the training pictures most like it (Devlin et al., 2015).

    python -m eval neighbours --bundle B --annotations captions_val.json --pictures val
        --training-annotations captions_train.json --training-pictures train --out neighbours.json

Alike is the cosine of the bundle's own grids, their cells averaged. Of the captions of the NEAREST training pictures
the most typical one is said (eval.baselines.typical). The file is COCO results: `score --neighbours neighbours.json`
makes a row of it beside a model's, and a captioner that is not above it has learned to look things up.
Shapes: N pictures, C channels.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from captioner.atomic import write_json
from captioner.captioner import Captioner
from captioner.engine import usable_cores
from captioner.tokens import sentence, tokenize
from eval.baselines import typical
from eval.coco import CaptionSplit, load_split
from eval.decoding import decode_ahead
from eval.results import warn

NEAREST = 20
BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `python -m eval neighbours`."""
    add = parser.add_argument
    add("--bundle", type=Path, help="the model's folder; only its encoder is used; default: the box")
    add("--annotations", type=Path, required=True, help="captions in COCO's or Karpathy's layout")
    add("--pictures", type=Path, required=True, help="the folder that the annotations' file names are in")
    add("--split", help='in Karpathy\'s layout: "val", or several as in "train+restval"')
    add("--training-annotations", type=Path, help="default: --annotations")
    add("--training-pictures", type=Path, help="default: --pictures")
    add("--training-split", help='in Karpathy\'s layout: "train"')
    add("--out", type=Path, required=True, help="the JSON file to write")


def main(args: argparse.Namespace) -> None:
    """Encode both splits, find, write."""
    asked = load_split(args.annotations, args.pictures, args.split)
    known = load_split(
        args.training_annotations or args.annotations, args.training_pictures or args.pictures, args.training_split
    )
    if (known.annotations, known.split) == (asked.annotations, asked.split):
        raise ValueError(
            f"{asked.name} would be its own training split: name one with --training-annotations or -split"
        )
    captions = known.references
    if not captions:
        raise ValueError(f"{known.name} holds no captions to say")
    captioner = Captioner.load(args.bundle)
    asked_ids, asked_NC = features(captioner, asked)
    known_ids, known_NC = features(captioner, known)
    speaks = np.array([image_id in captions for image_id in known_ids])
    if not len(asked_ids) or not speaks.any():
        raise ValueError(f"no picture of {asked.name} or of {known.name} can be read")
    known_ids, known_NC = [n for n, yes in zip(known_ids, speaks, strict=True) if yes], known_NC[speaks]
    tokens = {image_id: [tokenize(text) for text in captions[image_id]] for image_id in known_ids}
    results = []
    for image_id, feature_C in zip(asked_ids, asked_NC, strict=True):
        nearest = np.argsort(-(known_NC @ feature_C), kind="stable")[:NEAREST]
        caption = sentence(typical([tokens[known_ids[n]] for n in nearest]))
        results.append({"image_id": image_id, "caption": caption})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, results)
    print(f"{args.out}: captions of {len(known_ids)} pictures for {len(results)}")


def features(captioner: Captioner, split: CaptionSplit) -> tuple[list[int], NDArray[np.float32]]:
    """Image ids of the readable pictures and the direction of their mean grid [N, C]."""
    batches = [split.pictures[n : n + BATCH] for n in range(0, len(split.pictures), BATCH)]
    paths = [[picture.path for picture in batch] for batch in batches]
    image_ids: list[int] = []
    parts: list[NDArray[np.float32]] = []
    ahead = decode_ahead(paths, captioner.bundle.model.preprocessing, usable_cores())
    with closing(ahead), tqdm(total=len(split.pictures), desc="encoding", unit="pictures", leave=False) as bar:
        for batch, decoded in zip(batches, ahead, strict=True):
            for unreadable in decoded.unreadable.values():
                warn(f"left out: {unreadable.message}")
            image_ids += [picture.image_id for n, picture in enumerate(batch) if n not in decoded.unreadable]
            if len(decoded.pixels_BHW3):
                parts.append(captioner.encode(decoded.pixels_BHW3).mean(axis=1))
            bar.update(len(batch))
    found_NC = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    return image_ids, found_NC / np.maximum(np.linalg.norm(found_NC, axis=1, keepdims=True), 1e-9)
