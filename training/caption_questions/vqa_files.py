"""Questions in the layout of VQA v2: questions_{split}.json and annotations_{split}.json.

`images` is ours, for pictures whose file names are not made of their ids: [{"id", "file_name"}], as in COCO's files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from captioner.atomic import write_json
from eval.coco import CocoPicture
from training.caption_questions.balance import Asked

REPEATS = 10
"""The one answer stands for the ten of VQA v2, so that VQA accuracy is plain accuracy."""
IDS_PER_PICTURE = 1000
"""question_id is image_id times this, plus the question's place: unique and the same for a split and seed."""


def write_split(out: Path, split: str, asked: Asked, pictures: Iterable[CocoPicture], info: str) -> None:
    """Write both files. The paths of the pictures are those that `images` gives: relative to the pictures' folder."""
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, of_picture in asked.items():
        if len(of_picture) > IDS_PER_PICTURE:
            raise ValueError(f"a picture has at most {IDS_PER_PICTURE} questions, {image_id} has {len(of_picture)}")
        for n, question in enumerate(of_picture):
            entry = {"image_id": image_id, "question_id": image_id * IDS_PER_PICTURE + n}
            answers = [
                {"answer": question.answer, "answer_confidence": "yes", "answer_id": i + 1} for i in range(REPEATS)
            ]
            questions.append({**entry, "question": question.text})
            annotations.append(
                {
                    **entry,
                    "question_type": question.kind,
                    "answer_type": "number" if question.kind == "number" else "other",
                    "multiple_choice_answer": question.answer,
                    "answers": answers,
                }
            )
    images = [
        {"id": picture.image_id, "file_name": picture.path.as_posix()}
        for picture in pictures
        if picture.image_id in asked
    ]
    head = {
        "info": {"description": info, "picture_naming": "images[].file_name, by id"},
        "data_type": "captions",
        "data_subtype": split,
        "license": {},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / f"questions_{split}.json", {**head, "task_type": "Open-Ended", "images": images, "questions": questions}
    )
    write_json(out / f"annotations_{split}.json", {**head, "annotations": annotations})


def known_answers(annotations: Path) -> frozenset[str]:
    """The answers of an annotations file; a ValueError names the file that is wrong."""
    try:
        document = json.loads(annotations.read_text(encoding="utf-8"))
        return frozenset(entry["multiple_choice_answer"] for entry in document["annotations"])
    except OSError as e:
        raise ValueError(f"{annotations}: cannot be read: {e.strerror}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{annotations}: not annotations in the VQA layout: {e!r}") from e
