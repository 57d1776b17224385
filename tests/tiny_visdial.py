"""A small VisDial v1.0 file, valid in every field, for there is none of the real ones here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUESTIONS = ["is it sunny", "how many people are there", "what color is the dog", "is there a tree"]
ANSWERS = ["yes", "no", "2", "brown", "i can't tell"]


def visdial(image_ids: Sequence[int] = (7, 4), rounds: int = 3, test: bool = False) -> dict[str, Any]:
    """Dialogs about these pictures; round r of dialog d asks question d + r and gets answer d + 2r (modulo the lists).

    The candidates are all answers, turned by r. With `test`, dialog d has d % rounds + 1 rounds, the last without
    answer and gt_index, the others without candidates.
    """
    dialogs = []
    for d, image_id in enumerate(image_ids):
        dialog: list[dict[str, Any]] = []
        for r in range(d % rounds + 1 if test else rounds):
            answer = (d + 2 * r) % len(ANSWERS)
            options = [(r + n) % len(ANSWERS) for n in range(len(ANSWERS))]
            turn = {"answer": answer, "gt_index": options.index(answer), "answer_options": options}
            dialog.append({"question": (d + r) % len(QUESTIONS), **turn})
        if test:
            for turn in dialog[:-1]:
                del turn["gt_index"], turn["answer_options"]
            del dialog[-1]["gt_index"], dialog[-1]["answer"]
        dialogs.append({"image_id": image_id, "caption": f"caption of picture {image_id}", "dialog": dialog})
    data = {"questions": [*QUESTIONS], "answers": [*ANSWERS], "dialogs": dialogs}
    return {"version": "1.0", "split": "test2018" if test else "val2018", "data": data}


def dense(document: dict[str, Any], name: str = "gt_relevance") -> list[dict[str, Any]]:
    """Of the last round of each dialog: 1 for the right answer, 0.5 for the candidate after it, 0 for the others."""
    found = []
    for dialog in document["data"]["dialogs"]:
        last = dialog["dialog"][-1]
        relevance = [0.0] * len(last["answer_options"])
        relevance[(last["gt_index"] + 1) % len(relevance)] = 0.5
        relevance[last["gt_index"]] = 1
        found.append({"image_id": dialog["image_id"], "round_id": len(dialog["dialog"]), name: relevance})
    return found


def write(folder: Path, name: str, document: Any) -> Path:
    """The file's path."""
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder / name
