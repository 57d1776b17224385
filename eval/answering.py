"""A bundle asked every question of a split, each picture encoded once, whatever the number of questions about it.

Batches are fixed slices of the list of pictures and go into a journal, as in eval.captions: a killed run goes on where
it was. A question that brings choices is asked twice: as it is, and with the choices as candidates.

Axes: B pictures, P grid cells, C channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from captioner.captioner import Captioner
from captioner.engine import usable_cores
from captioner.query import BadQuestion, Query
from captioner.results import Answered
from eval.captions import unfinished
from eval.coco import CocoPicture
from eval.decoding import Decoded, decode_ahead
from eval.journal import Journal
from eval.questions import Question, QuestionSplit
from eval.stopwatch import Stopwatch

AT_ONCE = 128
"""Questions in one run of the answerer."""
TOP = 5
"""Answers kept of each question."""


@dataclass(frozen=True)
class Asked:
    """A picture and the questions about it, in file order."""

    picture: CocoPicture
    questions: tuple[Question, ...]


def by_picture(split: QuestionSplit, batch_size: int) -> list[list[Asked]]:
    """Batches of pictures, in the order of their first question."""
    about: dict[int, list[Question]] = defaultdict(list)
    for question in split.questions:
        about[question.image_id].append(question)
    asked = [Asked(picture, tuple(about[picture.image_id])) for picture in split.pictures]
    return [asked[n : n + batch_size] for n in range(0, len(asked), batch_size)]


def answer_batches(
    captioner: Captioner, batches: Sequence[Sequence[Asked]], journal: Journal, open_ended: bool, workers: int | None
) -> dict[str, Any]:
    """Bring the journal up to date; returns the throughput. workers: see decode_ahead; None is one per usable core."""
    watch = Stopwatch()
    todo = unfinished(journal, batches)
    paths = [[asked.picture.path for asked in batches[n]] for n in todo]
    ahead = decode_ahead(paths, captioner.bundle.model.preprocessing, usable_cores() if workers is None else workers)
    counts = [sum(len(asked.questions) for asked in batch) for batch in batches]
    left = sum(counts[n] for n in todo)
    with closing(ahead), tqdm(total=sum(counts), initial=sum(counts) - left, unit="questions") as bar:
        for n in todo:
            with watch.stage("waiting for pictures"):
                decoded = next(ahead)
            journal.append(n, answer_batch(captioner, batches[n], decoded, open_ended, watch))
            bar.update(counts[n])
    report = watch.report(sum(len(batches[n]) for n in todo))
    return {**report, "questions": left, "questions_per_second": left / report["seconds"]}


def answer_batch(
    captioner: Captioner, batch: Sequence[Asked], decoded: Decoded, open_ended: bool, watch: Stopwatch
) -> dict[str, Any]:
    """The journal's record of a batch: results, errors of pictures and questions that were refused.

    A result is {"question_id", "answers", "unknown_words"} if open_ended, and has "choices", their probabilities, if
    the question brings any. open_ended is False where only choices count: a question without them is not asked.
    """
    row: dict[int, int] = {}
    errors = []
    for place, asked in enumerate(batch):
        if why := decoded.unreadable.get(place):
            errors += [_error(question, **vars(why)) for question in asked.questions]
        else:
            row[asked.picture.image_id] = len(row)
    questions = [question for asked in batch if asked.picture.image_id in row for question in asked.questions]
    grid_BPC = None
    if questions:
        with watch.stage("encoding"):
            grid_BPC = captioner.encode(decoded.pixels_BHW3)
    results: dict[int, dict[str, Any]] = {}
    refused = []
    queries: list[tuple[Question, Query]] = []
    for question in questions:
        try:
            queries += [(question, query) for query in _queries(captioner, question, open_ended)]
        except BadQuestion as e:
            refused.append(_error(question, e.reason, str(e)))
    if grid_BPC is not None:
        with watch.stage("answering"):
            rows = [row[question.image_id] for question, _ in queries]
            found = ask(captioner, grid_BPC, [query for _, query in queries], rows)
        for (question, query), answered in zip(queries, found, strict=True):
            result = results.setdefault(question.question_id, {"question_id": question.question_id})
            result |= _chosen(question, answered) if query.candidates else _answers(answered)
    return {"results": list(results.values()), "errors": errors, "refused": refused}


def ask(
    captioner: Captioner, grid_BPC: NDArray[np.float32], queries: Sequence[Query], rows: Sequence[int]
) -> list[Answered]:
    """What becomes of each query about the photo in its row of the grid: those with the same candidates go together."""
    together: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for n, query in enumerate(queries):
        together[query.candidates].append(n)
    found: dict[int, Answered] = {}
    for numbers in together.values():
        for part in _slices(numbers):
            answered = captioner.answer_batch(grid_BPC, [queries[n] for n in part], [rows[n] for n in part])
            found |= zip(part, answered, strict=True)
    return [found[n] for n in range(len(queries))]


def blind_answers(captioner: Captioner, questions: Iterable[Question]) -> dict[int, str]:
    """The answers of a model that sees no picture, "" to a question that it refuses; none is decoded.

    ValueError for a model of another kind.
    """
    bundle = captioner.bundle
    kind = bundle.model.answerer.kind if bundle.model.answerer else "none"
    if kind != "question_only":
        raise ValueError(
            f"the row of a model that sees no picture needs a question_only answerer, {bundle.name} has {kind}"
        )
    rows, columns, channels = bundle.grid
    nothing_1PC = np.zeros((1, rows * columns, channels), np.float32)
    answers: dict[int, str] = {}
    queries: dict[int, Query] = {}
    for question in questions:
        answers[question.question_id] = ""
        try:
            queries[question.question_id] = Query(question.text, top=1)
        except BadQuestion:
            continue
    found = ask(captioner, nothing_1PC, list(queries.values()), [0] * len(queries))
    return answers | {n: answered.answers[0].text for n, answered in zip(queries, found, strict=True)}


def _queries(captioner: Captioner, question: Question, open_ended: bool) -> Iterator[Query]:
    """One with all answers that the model knows, and one with the question's choices; raises BadQuestion."""
    settings = captioner.bundle.model.answerer
    history: tuple[tuple[str, str], ...] = ()
    if settings is not None and settings.history:
        history = ((("", question.context),) if question.context else ()) + question.history
    choices = tuple(dict.fromkeys(question.choices))
    queries = [Query(question.text, TOP, history)] if open_ended else []
    queries += [Query(question.text, len(choices), history, choices)] if choices else []
    for query in queries:
        captioner.check_query(query)
    yield from queries


def _answers(answered: Answered) -> dict[str, Any]:
    answers = [{"text": answer.text, "probability": answer.probability} for answer in answered.answers]
    return {"answers": answers, "unknown_words": list(answered.unknown_words)}


def _chosen(question: Question, answered: Answered) -> dict[str, Any]:
    probability = {answer.text: answer.probability for answer in answered.answers}
    return {
        "choices": [probability[choice] for choice in question.choices],
        "unknown_words": list(answered.unknown_words),
    }


def _error(question: Question, reason: str, message: str) -> dict[str, Any]:
    where = {"question_id": question.question_id, "image_id": question.image_id, "file": question.path.name}
    return {**where, "reason": reason, "message": message}


def _slices(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE))
