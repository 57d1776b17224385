"""Visual dialogs in VisDial v1.0's layout (Das et al., 2017; visualdialog.org/data), as questions with a history.

A file holds lists of questions and answers, and dialogs that point into them: the caption of a picture and up to ten
rounds, each with a question, its answer, candidate answers and the index of the right one. In the test set a dialog
breaks off at the round that is asked for: its last round has candidates and no answer, those before it an answer and no
candidates. Dense annotations, in a file of their own, say of one round of a dialog how relevant each candidate is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.fields import checked, field, read_json
from eval.questions import Question, QuestionSplit, pattern


def load_visdial(
    dialogs: Path, pictures: Path, naming: str | Sequence[str], dense: Path | None = None
) -> QuestionSplit:
    """Read dialogs, one question for each round, numbered from 0 in file order; no picture is opened.

    naming is the pattern of the pictures' file names ("VisualDialog_val2018_{image_id:012d}.jpg"), or several, of which
    the first that names a file counts: training dialogs are about pictures of COCO's train2014 and val2014. dense is
    the file of dense annotations. Malformed files are a ValueError that names the file, entry and field.
    """
    dialogs, pictures = Path(dialogs), Path(pictures)
    path = _finder(pictures, (naming,) if isinstance(naming, str) else naming)
    document = read_json(dialogs)
    try:
        data = field(document, "", "data", dict)
        lines = {name: field(data, "data", name, list) for name in ("questions", "answers")}
        for name, texts in lines.items():
            for i, text in enumerate(texts):
                checked(text, f"data.{name}[{i}]", str)
        questions: list[Question] = []
        seen: set[int] = set()
        for n, dialog in enumerate(field(data, "data", "dialogs", list)):
            where = f"data.dialogs[{n}]"
            image_id = field(dialog, where, "image_id", int)
            if image_id in seen:
                raise ValueError(f"{where}.image_id {image_id} is in the file twice")
            seen.add(image_id)
            start = Question(
                len(questions), image_id, path(image_id), "", (), context=field(dialog, where, "caption", str)
            )
            questions += _rounds(start, field(dialog, where, "dialog", list), lines, f"{where}.dialog")
        if not questions:
            raise ValueError("data.dialogs has no question")
    except ValueError as e:
        raise ValueError(f"{dialogs}: {e}") from e
    if dense is None:
        return QuestionSplit(dialogs, None, tuple(questions), ())
    dense = Path(dense)
    annotations = read_json(dense)
    try:
        return QuestionSplit(dialogs, dense, _with_relevance(questions, annotations), ())
    except ValueError as e:
        raise ValueError(f"{dense}: {e}") from e


def _finder(pictures: Path, namings: Sequence[str]) -> Callable[[int], Path]:
    """The path of each picture by its id."""
    if not namings:
        raise ValueError("naming must be a pattern or several, got none")
    names = [pattern(naming) for naming in namings]

    def find(image_id: int) -> Path:
        candidates = [pictures / name(image_id) for name in names]
        if len(candidates) == 1:
            return candidates[0]
        return next((path for path in candidates if path.is_file()), candidates[0])

    return find


def _rounds(start: Question, rounds: list[Any], lines: dict[str, list[str]], where: str) -> list[Question]:
    """The questions of one dialog; `start` has its first number, its picture and its caption."""
    found: list[Question] = []
    history: tuple[tuple[str, str], ...] = ()
    for n, entry in enumerate(rounds):
        place = f"{where}[{n}]"
        text = _line(entry, place, "question", lines["questions"])
        options = field(entry, place, "answer_options", list) if "answer_options" in entry else []
        choices = tuple(_at(lines["answers"], i, f"{place}.answer_options[{k}]") for k, i in enumerate(options))
        correct = None
        if "gt_index" in entry:
            correct = field(entry, place, "gt_index", int)
            _at(choices, correct, f"{place}.gt_index")
        answers: tuple[str, ...] = ()
        if "answer" in entry or n + 1 < len(rounds):  # only the last may be open
            answers = (_line(entry, place, "answer", lines["answers"]),)
        found.append(
            replace(
                start,
                question_id=start.question_id + n,
                text=text,
                answers=answers,
                history=history,
                choices=choices,
                correct_choice=correct,
            )
        )
        history += tuple((text, answer) for answer in answers)
    return found


def _with_relevance(questions: list[Question], annotations: Any) -> tuple[Question, ...]:
    """Rounds are numbered from 1, and so the round is the length of the history and one more."""
    rounds = {(question.image_id, len(question.history) + 1): n for n, question in enumerate(questions)}
    found = list(questions)
    for n, annotation in enumerate(checked(annotations, "the file", list)):
        where = f"[{n}]"
        key = field(annotation, where, "image_id", int), field(annotation, where, "round_id", int)
        if key not in rounds:
            raise ValueError(f"{where}: round {key[1]} of picture {key[0]} is not among the dialogs")
        question = found[rounds[key]]
        if question.relevance:
            raise ValueError(f"{where}: round {key[1]} of picture {key[0]} is in the file twice")
        # The validation file says gt_relevance, the training file relevance.
        name = "gt_relevance" if "gt_relevance" in annotation else "relevance"
        relevance = field(annotation, where, name, list)
        if len(relevance) != len(question.choices):
            raise ValueError(
                f"{where}.{name} must have one entry for each of {len(question.choices)} choices, got {len(relevance)}"
            )
        for i, value in enumerate(relevance):
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ValueError(f"{where}.{name}[{i}] must be a number in [0, 1], got {value!r:.60}")
        found[rounds[key]] = replace(question, relevance=tuple(float(value) for value in relevance))
    return tuple(found)


def _line(entry: Any, where: str, name: str, lines: Sequence[str]) -> str:
    return _at(lines, field(entry, where, name, int), f"{where}.{name}")


def _at(lines: Sequence[str], index: Any, place: str) -> str:
    if type(index) is not int or not 0 <= index < len(lines):
        raise ValueError(f"{place} must be an index below {len(lines)}, got {index!r:.60}")
    return lines[index]
