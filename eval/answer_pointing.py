"""The pointing game with questions: does the map of an answer peak inside the box that holds it? (Zhang et al., 2018)

    python -m eval pointing --bundle B --questions questions_val.json --annotations annotations_val.json --pictures val

An annotation may have a `box`, [x, y, width, height] in pixels of its picture, whose width and height the questions
file's list `images` gives; questions without a box are not asked.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from captioner.atomic import write_json
from captioner.captioner import Captioner
from captioner.query import BadQuestion, Query
from eval.answering import ask, by_picture
from eval.decoding import decode
from eval.fields import checked, field, read_json
from eval.pointing import BATCH, Box, inside, peak
from eval.questions import QuestionSplit, load_questions
from eval.results import commit, table, warn


def load_question_boxes(split: QuestionSplit) -> dict[int, Box]:
    """Boxes by question id, as shares of the picture; ValueError names the annotation or picture that is wrong."""
    try:
        images = field(read_json(split.questions_file), "", "images", list)
        sizes = {
            field(image, f"images[{n}]", "id", int): tuple(
                field(image, f"images[{n}]", side, int) for side in ("width", "height")
            )
            for n, image in enumerate(images)
        }
    except ValueError as e:
        raise ValueError(f"{split.questions_file}: boxes need the pictures' sizes: {e}") from e
    boxes: dict[int, Box] = {}
    for n, annotation in enumerate(split.annotations):
        if "box" not in annotation:
            continue
        box = checked(annotation["box"], f"{split.annotations_file}: annotations[{n}].box", list)
        if len(box) != 4 or any(type(value) not in (int, float) for value in box):
            raise ValueError(f"{split.annotations_file}: annotations[{n}].box must be 4 numbers, got {box!r:.60}")
        width, height = sizes[annotation["image_id"]]
        boxes[annotation["question_id"]] = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    if not boxes:
        raise ValueError(f"{split.annotations_file}: no annotation has a box")
    return boxes


def point(captioner: Captioner, split: QuestionSplit, boxes: Mapping[int, Box]) -> dict[int, bool]:
    """Whether each question's peak is in its box, by question id; those that cannot be asked are left out."""
    found: dict[int, bool] = {}
    asked = replace(split, questions=tuple(q for q in split.questions if q.question_id in boxes))
    for batch in tqdm(by_picture(asked, BATCH), desc="pointing", leave=False):
        decoded = decode([own.picture.path for own in batch], captioner.bundle.model.preprocessing)
        for why in decoded.unreadable.values():
            warn(f"left out: {why.message}")
        readable = [own for place, own in enumerate(batch) if place not in decoded.unreadable]
        if not readable:
            continue
        queries: dict[int, Query] = {}
        rows = []
        for row, own in enumerate(readable):
            for question in own.questions:
                try:
                    queries[question.question_id] = Query(question.text, top=1)
                    rows.append(row)
                except BadQuestion as e:
                    warn(f"question {question.question_id} is left out: {e}")
        answered = ask(captioner, captioner.encode(decoded.pixels_BHW3), list(queries.values()), rows)
        for question_id, answer in zip(queries, answered, strict=True):
            assert answer.attention is not None
            found[question_id] = inside(peak(answer.attention), [boxes[question_id]])
    return found


def main(args: argparse.Namespace) -> None:
    """Ask, look where the peaks are, print."""
    captioner = Captioner.load(args.bundle, precision=args.precision)
    answerer = captioner.bundle.model.answerer
    if answerer is None or answerer.kind != "attention":
        kind = answerer.kind if answerer else "none"
        raise ValueError(f"bundle {captioner.bundle.name} has no answerer with attention to point with: {kind}")
    split = load_questions(args.questions, args.annotations, args.pictures, args.naming)
    boxes = load_question_boxes(split)
    about = {question.image_id for question in split.questions if question.question_id in boxes}
    kept = set([picture.image_id for picture in split.pictures if picture.image_id in about][: args.limit])
    split = replace(split, questions=tuple(question for question in split.questions if question.image_id in kept))
    found = point(captioner, split, boxes)
    if not found:
        raise ValueError("no question could be asked")
    types: dict[str, list[int]] = defaultdict(list)
    for question in split.questions:
        if question.question_id in found:
            types[question.question_type].append(question.question_id)
    whole = _row(list(found), found, boxes)
    by_type = {name: _row(own, found, boxes) for name, own in types.items()}
    cells = [["", "questions", "in the box", "chance"]]
    for name, row in {"all": whole, **by_type}.items():
        cells.append([name, str(row["questions"]), f"{row['share']:.1%}", f"{row['chance']:.1%}"])
    print(table(cells))
    if args.out:
        result: dict[str, Any] = {**whole, "per_question_type": by_type, "annotations": Path(args.annotations).name}
        bundle = {"bundle": captioner.bundle.name, "bundle_version": captioner.bundle.version}
        write_json(args.out, {**result, **bundle, "precision": captioner.precision, "commit": commit()})


def _row(numbers: list[int], found: Mapping[int, bool], boxes: Mapping[int, Box]) -> dict[str, Any]:
    """chance is the mean share of the picture that the boxes cover: what pointing at random would hit."""
    share = float(np.mean([found[n] for n in numbers]))
    chance = float(np.mean([min(1.0, boxes[n][2] * boxes[n][3]) for n in numbers]))
    return {"questions": len(numbers), "share": share, "chance": chance}
