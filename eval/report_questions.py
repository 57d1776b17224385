"""The questions that a report shows: read from a folder of `python -m eval answers`, chosen, and asked again."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioner.captioner import Captioner
from captioner.query import Query
from captioner.results import Answered
from eval.answering import TOP, ask
from eval.answers import load_asked
from eval.coco import CocoPicture
from eval.fields import checked, read_json
from eval.journal import SETTINGS
from eval.questions import Question
from eval.report_answers import QuestionExample, QuestionGroup
from eval.report_pictures import jpeg, shade, small_photos
from eval.results import warn

SEED = 0
BATCH = 32


@dataclass(frozen=True)
class AnsweredRun:
    """What `python -m eval answers` left in a folder."""

    scores: dict[str, Any]
    questions: dict[int, Question]
    details: dict[int, dict[str, Any]]
    """As in questions.json, by question id; only those that have an answer."""
    errors: list[dict[str, Any]]


def load_run(folder: Path) -> AnsweredRun:
    """ValueError names the file that is missing, wrong or changed."""
    settings, scores = (_read(folder / name, dict) for name in (SETTINGS, "scores.json"))
    details = _read(folder / "questions.json", list)
    errors = _read(folder / "errors.json", list) if (folder / "errors.json").exists() else []
    try:
        files = [Path(settings[name]) if settings[name] else None for name in ("questions", "annotations", "pictures")]
        questions, annotations, pictures = files
        assert questions is not None
        assert pictures is not None
        split = load_asked(questions, annotations, pictures, settings["naming"], settings["dialogs"], settings["limit"])
        answered = {entry["question_id"]: entry for entry in details if entry["top"]}
    except (KeyError, TypeError, AssertionError) as e:
        raise ValueError(f"{folder}: not written by `python -m eval answers --bundle`: {e!r}") from e
    known = {question.question_id: question for question in split.questions}
    if unknown := [n for n in answered if n not in known]:
        raise ValueError(f"{folder}: question {unknown[0]} is not in {questions}")
    return AnsweredRun(scores, known, answered, errors)


def question_groups(run: AnsweredRun, bundle: Path | None, count: int) -> list[QuestionGroup]:
    """The best, the worst and some at random, with their photos and, with the bundle, where it looked."""
    chosen = choose(run.details, count)
    asked = {n: run.questions[n] for _, _, numbers in chosen for n in numbers}
    if not asked:
        return []
    photos = small_photos(list({q.image_id: CocoPicture(q.image_id, q.path, ()) for q in asked.values()}.values()))
    readable = [question for question in asked.values() if question.image_id in photos]
    looked = look(bundle, run.scores, readable) if bundle else {}
    return [
        QuestionGroup(title, rule, tuple(_example(asked[n], run.details[n], photos, looked.get(n)) for n in numbers))
        for title, rule, numbers in chosen
    ]


def choose(details: Mapping[int, Mapping[str, Any]], count: int) -> list[tuple[str, str, list[int]]]:
    """(title, rule, question ids) of each group; no question is both among the best and the worst."""
    chosen = []
    scored = [n for n, own in details.items() if "accuracy" in own]
    if scored:
        by = sorted(scored, key=lambda n: (-details[n]["accuracy"], -details[n]["probability"], n))
        best = by[: min(count, math.ceil(len(by) / 2))]
        rest = set(by) - set(best)
        worst = sorted(rest, key=lambda n: (details[n]["accuracy"], -details[n]["probability"], n))[:count]
        chosen.append(("Best answers", "The highest accuracy, and of those the surest.", best))
        chosen.append(("Worst answers", "The lowest accuracy, and of those the surest.", worst))
    drawn = random.Random(SEED).sample(sorted(details), min(count, len(details)))
    rule = f"{len(drawn)} of {len(details):,} questions, drawn without looking: best and worst alone mislead."
    return [*chosen, ("Random answers", rule, drawn)]


def look(bundle: Path, scores: Mapping[str, Any], questions: Sequence[Question]) -> dict[int, Answered]:
    """The answers with their maps, by question id; {} if the bundle's answerer has no attention."""
    captioner = Captioner.load(bundle, precision=scores.get("precision"))
    made_with = scores.get("bundle_version")
    if made_with and made_with != captioner.bundle.version:
        raise ValueError(f"{bundle}: is version {captioner.bundle.version}, the answers were made with {made_with}")
    answerer = captioner.bundle.model.answerer
    if answerer is None or answerer.kind != "attention":
        warn(f"the answerer of bundle {captioner.bundle.name} has no attention: the report has no maps of answers")
        return {}
    found: dict[int, Answered] = {}
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        grid_BPC = captioner.encode(np.stack([captioner.pixels(question.path) for question in batch]))
        answered = ask(captioner, grid_BPC, [Query(question.text, TOP) for question in batch], range(len(batch)))
        found |= {question.question_id: own for question, own in zip(batch, answered, strict=True)}
    return found


def _example(
    question: Question, detail: Mapping[str, Any], photos: Mapping[int, Image.Image], looked: Answered | None
) -> QuestionExample:
    photo = photos.get(question.image_id)
    again = looked.answers[0].text if looked else None
    same = again == detail["answer"]
    return QuestionExample(
        question.question_id,
        question.text,
        question.path.name,
        [(answer["text"], float(answer["probability"])) for answer in detail["top"]],
        question.answers,
        detail.get("accuracy"),
        detail["unknown_words"],
        jpeg(photo) if photo else None,
        photo.size if photo else (0, 0),
        shade(looked.attention) if looked and same and looked.attention is not None else None,
        f"No map: asked again, the answer is “{again}”." if looked and not same else None,
    )


def _read(path: Path, kind: type) -> Any:
    return checked(read_json(path), str(path), kind)
