"""Questions about pictures as batches; the order comes from (seed, epoch) alone.

A row of a batch is a picture with up to PER_ROW of its questions, so that they share its grid and its gradient.
Shapes: B rows, K questions of a row, Q words, A answers, W words of an answer, O candidates of one question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captioner.config import AnswererConfig
from captioner.lexicon import Lexicon
from captioner.questions import LONGEST_ANSWER, encode_history, encode_questions, padded
from captioner.tokens import tokenize
from captioner.vocabulary import UNKNOWN
from eval.questions import Question
from training.answers import answer_numbers, soft_scores
from training.data import PictureSet

PER_ROW = 8
CANDIDATES = 128
"""Answers that a question is compared with in a step, where any words can be one (jabri)."""


@dataclass(frozen=True)
class QuestionBatch:
    """Pictures with questions; places without a question have no words and targets of 0."""

    images_B: Tensor
    """Grids [B, P, C] of a frozen encoder, or uint8 pixels [B, H, W, 3] for one that trains."""
    question_BKQ: Tensor
    targets: Tensor
    """How right each answer is, in [0, 1]: [B, K, A], or [B, K, O] where each question has candidates of its own."""
    history_BKQ: Tensor | None = None
    candidates_AW: Tensor | None = None
    options_BKO: Tensor | None = None
    """Which of the candidates each question chooses between."""

    def to(self, device: torch.device) -> QuestionBatch:
        """The same on a device."""
        return QuestionBatch(*(None if x is None else x.to(device, non_blocking=True) for x in vars(self).values()))


class Reader:
    """Questions as numbers, for training and for validation."""

    def __init__(self, config: AnswererConfig, lexicon: Lexicon, longest: int):
        self.config, self.lexicon, self.longest = config, lexicon, longest
        self.number = answer_numbers(lexicon.answers)

    def words(self, text: str) -> list[int]:
        """Of a question."""
        return self.lexicon.questions.encode(tokenize(text)[: self.longest])

    def history(self, question: Question) -> list[int]:
        """Of all that was said before."""
        return encode_history(self.lexicon.questions, [("", question.context), *question.history])

    def candidates(self, answers: Sequence[str]) -> Tensor:
        """Words of answers [A, W]."""
        return torch.from_numpy(encode_questions(self.lexicon.questions, answers, LONGEST_ANSWER))

    def choices(self, questions: Sequence[Question]) -> tuple[Tensor, list[list[int]]]:
        """Words of all candidates [A, W], each once, and which of them are each question's own."""
        number = {text: n for n, text in enumerate(dict.fromkeys(text for q in questions for text in q.choices))}
        return self.candidates(list(number)), [[number[text] for text in question.choices] for question in questions]

    def targets(self, question: Question) -> dict[int, float]:
        """How right the answers are that are in the list."""
        scores = soft_scores(question)
        return {number: score for answer, score in scores.items() if (number := self.number.get(answer)) is not None}


def chooses(questions: Sequence[Question]) -> bool:
    """Whether every question has candidates of its own, as in VisDial."""
    return bool(questions) and all(question.choices for question in questions)


class QuestionBatches:
    """The batches of one process out of `processes`; questions without a known right answer are left out."""

    def __init__(
        self, images: PictureSet, questions: Sequence[Question], reader: Reader, batch_pictures: int, seed: int,
        word_dropout: float = 0.0, process: int = 0, processes: int = 1,
    ):  # fmt: skip
        self.images, self.reader, self.word_dropout = images, reader, word_dropout
        self.seed, self.process, self.processes = seed, process, processes
        position = {picture.path: n for n, picture in enumerate(images.pictures)}
        usable = set(images.usable)
        # Where every question has candidates, as in VisDial, the choice between them is what is learnt.
        self.chooses = chooses(questions)
        self.questions: list[Question] = []
        self.targets: list[dict[int, float]] = []
        self.of_picture: dict[int, list[int]] = defaultdict(list)
        for question in questions:
            targets = {question.correct_choice: 1.0} if self.chooses else reader.targets(question)
            if position[question.path] in usable and targets and None not in targets:
                self.of_picture[position[question.path]].append(len(self.questions))
                self.questions.append(question)
                self.targets.append({n: score for n, score in targets.items() if n is not None})
        self.words = [reader.words(question.text) for question in self.questions]
        rows = sum(-(-len(own) // PER_ROW) for own in self.of_picture.values())
        if rows < processes:
            raise ValueError(f"the {processes} processes need a picture with questions each, got {rows}")
        self.batch_pictures = min(batch_pictures, rows)
        self._rows = rows

    def __len__(self) -> int:
        return self._rows // self.batch_pictures

    def epoch(self, epoch: int, first: int = 0) -> Iterator[QuestionBatch]:
        """Batches `first` and later of an epoch; the rest of rows that fill no batch wait for another order."""
        random = np.random.default_rng([self.seed, epoch, 1])
        rows: list[tuple[int, list[int]]] = []
        for position, own in self.of_picture.items():
            shuffled = random.permutation(own).tolist()
            rows += [(position, shuffled[n : n + PER_ROW]) for n in range(0, len(shuffled), PER_ROW)]
        order = random.permutation(len(rows))
        views = random.integers(len(self.images.caches), size=len(rows))
        for n in range(first, len(self)):
            part = order[n * self.batch_pictures + self.process : (n + 1) * self.batch_pictures : self.processes]
            own = np.random.default_rng([self.seed, epoch, 2, n, self.process])
            yield self._batch([rows[i] for i in part], views[part].tolist(), own)

    def _batch(self, rows: list[tuple[int, list[int]]], views: list[int], random: np.random.Generator) -> QuestionBatch:
        longest = max(len(own) for _, own in rows)
        places = [(b, k, q) for b, (_, own) in enumerate(rows) for k, q in enumerate(own)]

        def spread(words: list[list[int]]) -> Tensor:
            texts_NQ = padded(words)
            table = np.zeros((len(rows), longest, texts_NQ.shape[1]), np.int64)
            for (b, k, _), text_Q in zip(places, texts_NQ, strict=True):
                table[b, k] = text_Q
            return torch.from_numpy(table)

        images_B = self.images.images([position for position, _ in rows], views)
        question_BKQ = spread([self._dropped(self.words[q], random) for _, _, q in places])
        asked = [self.questions[q] for _, _, q in places]
        history_BKQ = spread([self.reader.history(q) for q in asked]) if self.reader.config.history else None
        targets = [self.targets[q] for _, _, q in places]
        candidates_AW, options_BKO, count = None, None, len(self.reader.lexicon.answers)
        if self.chooses:
            candidates_AW, own_options = self.reader.choices(asked)
            options_BKO = spread(own_options)
            count = options_BKO.shape[2]
        elif self.reader.config.kind == "jabri":
            right = sorted({answer for own in targets for answer in own})
            others = random.permutation(np.setdiff1d(np.arange(count), right))[: max(0, CANDIDATES - len(right))]
            chosen = [*right, *others.tolist()]
            number = {answer: n for n, answer in enumerate(chosen)}
            targets = [{number[answer]: score for answer, score in own.items()} for own in targets]
            candidates_AW = self.reader.candidates([self.reader.lexicon.answers[answer] for answer in chosen])
            count = len(chosen)
        table = torch.zeros(len(rows), longest, count)
        for (b, k, _), own in zip(places, targets, strict=True):
            for answer, score in own.items():
                table[b, k, answer] = score
        return QuestionBatch(images_B, question_BKQ, table, history_BKQ, candidates_AW, options_BKO)

    def _dropped(self, words: list[int], random: np.random.Generator) -> list[int]:
        """The words, a share of them unknown."""
        if not self.word_dropout:
            return words
        return [UNKNOWN if random.random() < self.word_dropout else word for word in words]


def question_table(reader: Reader, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Word numbers [N, Q] of questions and of their histories, for validation."""
    words, histories = [reader.words(q.text) for q in questions], [reader.history(q) for q in questions]
    return torch.from_numpy(padded(words)), torch.from_numpy(padded(histories))
