"""Questions about pictures, read in one place for training and evaluation: VQA v1 and v2, and sets written like them.

Questions and people's answers lie in two files (visualqa.org); test sets have no second one. VQA v1's multiple-choice
questions bring their candidates. For dialogs see eval.visdial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.coco import CocoPicture
from eval.fields import checked, field, read_json

_SUBTYPE = re.compile(r"(train|val|test)(?:-dev)?(2014|2015|2017)")  # "test-dev2015" asks about pictures of test2015


@dataclass(frozen=True)
class Question:
    """A question about a picture and what people answered."""

    question_id: int
    image_id: int
    path: Path
    """The picture; need not exist."""
    text: str
    """As written."""
    answers: tuple[str, ...]
    """As written, in file order; empty where nobody answered (test sets)."""
    question_type: str = ""
    answer_type: str = ""
    history: tuple[tuple[str, str], ...] = ()
    """The (question, answer) pairs before this one in a dialog."""
    context: str = ""
    """The dialog's caption of the picture; empty elsewhere."""
    choices: tuple[str, ...] = ()
    """Candidate answers; empty where the question is open-ended."""
    correct_choice: int | None = None
    """Index in choices; None if that is not known, or the answer is not among them."""
    relevance: tuple[float, ...] = ()
    """Of each choice, in [0, 1] (VisDial's dense annotations); empty where not given."""


@dataclass(frozen=True)
class QuestionSplit:
    """The questions of one split, in file order."""

    questions_file: Path
    annotations_file: Path | None
    questions: tuple[Question, ...]
    annotations: tuple[Mapping[str, Any], ...]
    """As in the file and in its order, which is what eval.metrics.vqa.vqa_accuracy takes; empty if there is none."""

    @cached_property
    def pictures(self) -> tuple[CocoPicture, ...]:
        """The different pictures in the order of their first question, without captions."""
        paths: dict[int, Path] = {}
        for question in self.questions:
            paths.setdefault(question.image_id, question.path)
        return tuple(CocoPicture(image_id, path, ()) for image_id, path in paths.items())


def load_questions(
    questions: Path, annotations: Path | None, pictures: Path, naming: str | None = None
) -> QuestionSplit:
    """Read questions, and people's answers if there is a file of them; no picture is opened.

    naming is the pattern of the pictures' file names, such as "image{image_id}.jpg" or "{image_id:012d}.jpg". Without
    it, names come from the list `images` of the questions file, or are COCO's own by data_subtype ("val2014").
    Malformed files are a ValueError that names the file, entry and field.
    """
    questions, pictures = Path(questions), Path(pictures)
    document = read_json(questions)
    try:
        entries = field(document, "", "questions", list)
        if not entries:
            raise ValueError("questions is empty")
        file_name = pattern(naming) if naming is not None else _names(document)
        paths: dict[int, Path] = {}
        found: dict[int, Question] = {}
        for n, entry in enumerate(entries):
            question = _question(entry, f"questions[{n}]", lambda i: paths.setdefault(i, pictures / file_name(i)))
            if question.question_id in found:
                raise ValueError(f"questions[{n}].question_id {question.question_id} is in the file twice")
            found[question.question_id] = question
    except ValueError as e:
        raise ValueError(f"{questions}: {e}") from e
    if annotations is None:
        return QuestionSplit(questions, None, tuple(found.values()), ())
    annotations = Path(annotations)
    document = read_json(annotations)
    try:
        annotated = field(document, "", "annotations", list)
        answered = _answered(found, annotated)
    except ValueError as e:
        raise ValueError(f"{annotations}: {e}") from e
    return QuestionSplit(questions, annotations, answered, tuple(annotated))


def pattern(naming: str) -> Callable[[int], str]:
    """File names by image id from a format string with the field image_id; ValueError if it is another."""
    try:
        told_apart = naming.format(image_id=1) != naming.format(image_id=2)
    except (AttributeError, LookupError, TypeError, ValueError) as e:
        raise ValueError(f"naming {naming!r} is no pattern with image_id for its one field: {e!r}") from e
    if not told_apart:
        raise ValueError(f"naming must hold the image id, as 'image{{image_id}}.jpg' does, got {naming!r}")
    return lambda image_id: naming.format(image_id=image_id)


def _names(document: Mapping[str, Any]) -> Callable[[int], str]:
    """File names by image id as the questions file itself says."""
    if "images" in document:
        names = {}
        for n, image in enumerate(field(document, "", "images", list)):
            image_id = field(image, f"images[{n}]", "id", int)
            if image_id in names:
                raise ValueError(f"images[{n}].id {image_id} is in the file twice")
            names[image_id] = field(image, f"images[{n}]", "file_name", str)
        return lambda image_id: _listed(names, image_id)
    subtype = document.get("data_subtype")
    known = _SUBTYPE.fullmatch(subtype) if isinstance(subtype, str) else None
    if known is None or document.get("data_type", "mscoco") != "mscoco":
        raise ValueError(
            "the names of the pictures are not known (no images, and data_type and data_subtype are not those of "
            f"COCO: {document.get('data_type')!r}, {subtype!r}): give naming, such as 'image{{image_id}}.jpg'"
        )
    part, year = known.groups()
    return pattern("{image_id:012d}.jpg" if year == "2017" else f"COCO_{part}{year}_{{image_id:012d}}.jpg")


def _listed(names: Mapping[int, str], image_id: int) -> str:
    if image_id not in names:
        raise ValueError(f"image_id {image_id} is not among images")
    return names[image_id]


def _question(entry: Any, where: str, path: Callable[[int], Path]) -> Question:
    question_id = field(entry, where, "question_id", int)
    image_id = field(entry, where, "image_id", int)
    text = field(entry, where, "question", str)
    choices = field(entry, where, "multiple_choices", list) if "multiple_choices" in entry else []
    for i, choice in enumerate(choices):
        checked(choice, f"{where}.multiple_choices[{i}]", str)
    try:
        own_path = path(image_id)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    return Question(question_id, image_id, own_path, text, (), choices=tuple(choices))


def _answered(questions: Mapping[int, Question], annotations: list[Any]) -> tuple[Question, ...]:
    """The questions in their own order with what the annotations say of them."""
    found: dict[int, Question] = {}
    for n, annotation in enumerate(annotations):
        where = f"annotations[{n}]"
        question_id = field(annotation, where, "question_id", int)
        if question_id not in questions:
            raise ValueError(f"{where}.question_id {question_id} is not among the questions")
        if question_id in found:
            raise ValueError(f"{where}.question_id {question_id} is in the file twice")
        found[question_id] = _annotated(questions[question_id], annotation, where)
    for question_id in questions:
        if question_id not in found:
            raise ValueError(f"question {question_id} has no annotation")
    return tuple(found[question_id] for question_id in questions)


def _annotated(question: Question, annotation: Mapping[str, Any], where: str) -> Question:
    image_id = field(annotation, where, "image_id", int)
    if image_id != question.image_id:
        raise ValueError(f"{where}.image_id is {image_id}, but its question is about picture {question.image_id}")
    answers = field(annotation, where, "answers", list)
    if not answers:
        raise ValueError(f"{where}.answers is empty")
    people = tuple(field(answer, f"{where}.answers[{i}]", "answer", str) for i, answer in enumerate(answers))
    correct = None
    if question.choices and "multiple_choice_answer" in annotation:
        answer = field(annotation, where, "multiple_choice_answer", str)
        correct = question.choices.index(answer) if answer in question.choices else None
    return Question(
        question.question_id,
        question.image_id,
        question.path,
        question.text,
        people,
        field(annotation, where, "question_type", str),
        field(annotation, where, "answer_type", str),
        choices=question.choices,
        correct_choice=correct,
    )
