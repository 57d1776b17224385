"""Questions as batches: answers and how right they are, rows, targets, candidates, and the order of steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from captioner.config import AnswererConfig
from captioner.lexicon import Lexicon
from captioner.vocabulary import MARKS, UNKNOWN, Vocabulary
from eval.coco import CocoPicture
from eval.questions import Question
from training.answers import answer_list, soft_scores
from training.data import PictureSet, TrainingBatches
from training.loss import answer_loss, attention_entropy
from training.questions import CANDIDATES, PER_ROW, QuestionBatches, Reader
from training.steps import Steps

WORDS = Vocabulary([*MARKS, "what", "is", "red", "blue", "dog", "it"])
LEXICON = Lexicon(questions=WORDS, answers=("red", "blue", "dog"))


def question(number: int, picture: int = 0, text: str = "what is it?", answers=("red",) * 10, **more) -> Question:
    return Question(number, picture, Path(f"{picture}.png"), text, tuple(answers), **more)


def images(count: int, skipped=()) -> PictureSet:
    """Picture n's row is filled with n."""
    pictures = [CocoPicture(n, Path(f"{n}.png"), ("a dog",)) for n in range(count)]
    rows = np.broadcast_to(np.arange(count).reshape(-1, 1, 1), (count, 2, 3)).astype(np.float16)
    return PictureSet(pictures, [SimpleNamespace(rows=rows, skipped=dict.fromkeys(skipped, "broken"))])


def batches(questions, pictures=3, kind="product", lexicon=LEXICON, size=2, history=False, **more) -> QuestionBatches:
    reader = Reader(AnswererConfig(kind=kind, history=history), lexicon, longest=5)
    return QuestionBatches(images(pictures, more.pop("skipped", ())), questions, reader, size, 0, **more)


def test_three_people_make_an_answer_right():
    asked = question(1, answers=["Red!"] * 2 + ["a dog"] * 5 + ["blue"] + ["the"] * 2)
    assert soft_scores(asked) == pytest.approx({"red": 2 / 3, "dog": 1, "blue": 1 / 3})
    assert soft_scores(question(1, answers=["yes"])) == {"yes": 1}
    assert soft_scores(question(1, answers=[])) == {}


def test_the_commonest_answers_in_their_commonest_spelling():
    asked = [
        question(1, answers=["night_stand"] * 10),
        question(2, answers=["night_stand"] * 10),
        question(3, answers=["Night Stand"] * 9 + ["bed"]),
        question(4, answers=["bed"] * 10),
        question(5, answers=["chair"] * 10),
        question(6, answers=["apple"] * 10),
    ]
    assert answer_list(asked, 1, 10) == ("night_stand", "bed", "apple", "chair")  # 3, 2, then by spelling
    assert answer_list(asked, 2, 10) == ("night_stand", "bed")
    assert answer_list(asked, 1, 1) == ("night_stand",)
    with pytest.raises(ValueError, match="no answer is given to min_count=4 questions"):
        answer_list(asked, 4, 10)


def test_layout_of_a_batch():
    asked = [
        question(1, 0, "What is it?", ["red"] * 10),
        question(2, 0, "what", ["blue"] * 2 + ["dog"] * 8),
        question(3, 1, "a zebra is it", ["dog"] * 10),
        question(4, 1, "is it", ["purple"] * 10),  # an answer that is not known
    ]
    (batch,) = batches(asked).epoch(0)
    assert batch.images_B[:, 0, 0].tolist() in ([0, 1], [1, 0])
    first = batch.images_B[:, 0, 0].tolist().index(0)
    rows = {
        tuple(words): targets
        for words, targets in zip(batch.question_BKQ[first].tolist(), batch.targets[first], strict=True)
    }
    assert rows[4, 5, 9, 0].tolist() == [1, 0, 0]
    assert rows[4, 0, 0, 0].tolist() == pytest.approx([0, 2 / 3, 1])
    other = batch.question_BKQ[1 - first].tolist()
    assert other == [[UNKNOWN, UNKNOWN, 5, 9], [0, 0, 0, 0]]
    assert batch.targets[1 - first].tolist() == [[0, 0, 1], [0, 0, 0]]


def test_every_question_once_an_epoch_in_rows_of_one_picture():
    asked = [question(100 * picture + n, picture, "what " * (n % 5 + 1)) for picture in range(3) for n in range(11)]
    of = batches(asked, size=2)
    assert len(of) == 3  # two rows for each picture
    seen = list(of.epoch(0))
    assert sum(int((batch.targets.sum(2) > 0).sum()) for batch in seen) == 33
    assert all(batch.question_BKQ.shape[1] <= PER_ROW for batch in seen)
    again = list(of.epoch(0, first=1))
    assert all(torch.equal(a.question_BKQ, b.question_BKQ) for a, b in zip(seen[1:], again, strict=True))
    assert [b.images_B[:, 0, 0].tolist() for b in of.epoch(1)] != [b.images_B[:, 0, 0].tolist() for b in seen]


def test_two_processes_share_a_batch():
    asked = [question(picture, picture) for picture in range(4)]
    whole = [batch.images_B[:, 0, 0].tolist() for batch in batches(asked, 4, size=4).epoch(0)]
    parts = [
        [batch.images_B[:, 0, 0].tolist() for batch in batches(asked, 4, size=4, process=n, processes=2).epoch(0)]
        for n in range(2)
    ]
    assert [[*a[:1], *b[:1], *a[1:], *b[1:]] for a, b in zip(*parts, strict=True)] == whole


def test_unreadable_pictures_are_left_out():
    asked = [question(n, n) for n in range(3)]
    (batch,) = batches(asked, skipped=[1]).epoch(0)
    assert sorted(batch.images_B[:, 0, 0].tolist()) == [0, 2]
    with pytest.raises(ValueError, match="need a picture with questions each, got 0"):
        batches([question(1, 1)], skipped=[1])


def test_dropped_words_are_unknown():
    (batch,) = batches([question(1, 0)], size=1, word_dropout=0.9).epoch(0)
    assert UNKNOWN in batch.question_BKQ.flatten().tolist()


def test_jabri_gets_the_right_answers_among_others():
    many = Lexicon(questions=WORDS, answers=tuple(f"{n}" for n in range(500)))
    asked = [question(n, n % 3, answers=[str(100 + n)] * 10) for n in range(6)]
    for batch in batches(asked, kind="jabri", lexicon=many).epoch(0):
        assert batch.candidates_AW.shape[0] == CANDIDATES == batch.targets.shape[2]
        assert batch.targets.sum(2).unique().tolist() == [1.0]


def test_dialogs_choose_among_their_own_candidates():
    asked = [
        question(1, 0, choices=("red", "dog"), correct_choice=1, history=(("is it", "blue"),), context="a red dog"),
        question(2, 1, choices=("dog", "blue"), correct_choice=0),
    ]
    (batch,) = batches(asked, kind="jabri", history=True).epoch(0)
    first = batch.images_B[:, 0, 0].tolist().index(0)
    words = batch.candidates_AW[batch.options_BKO[first, 0]].flatten().tolist()
    assert words == [6, 8]
    assert batch.targets[first, 0].tolist() == [0, 1]
    assert batch.history_BKQ[first, 0].tolist() == [UNKNOWN, 6, 8, 5, 9, 7]  # the caption, the question, its answer


def test_entropy_of_where_was_looked_on_paper():
    attention = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.4, 0.4]]])
    targets = torch.tensor([[[1.0, 0.0], [0.3, 0.6], [0.0, 0.0]]])  # the third is no question
    assert attention_entropy(attention, targets).item() == pytest.approx(math.log(2) / 2)
    assert attention_entropy(attention, targets * 0).item() == 0


def test_answer_loss_on_paper():
    scores = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [9.0, 9.0]]])
    targets = torch.tensor([[[1.0, 0.0], [0.3, 0.6], [0.0, 0.0]]])  # the last is no question
    log_probs = [math.log(1 / (1 + math.exp(2))), math.log(1 / (1 + math.exp(-2)))]
    expected = (math.log(2) - (log_probs[0] + 2 * log_probs[1]) / 3) / 2
    assert answer_loss(scores, targets, 0.0, choice=True).item() == pytest.approx(expected)
    each = [2 * math.log(2), sum(math.log(1 + math.exp(s)) - t * s for s, t in ((1, 0.3), (3, 0.6)))]
    assert answer_loss(scores, targets, 0.0, choice=False).item() == pytest.approx(sum(each) / 2)
    smooth = answer_loss(scores[:, :1], targets[:, :1], 0.2, choice=True).item()
    assert smooth == pytest.approx(math.log(2))
    assert answer_loss(scores, targets * 0, 0.0, choice=True).item() == 0


def test_steps_begin_the_shorter_again():
    asked = [question(picture, picture) for picture in range(2)]
    answering = batches(asked, 5, size=2)  # one batch an epoch
    captions = TrainingBatches(images(5), Vocabulary([*MARKS, "a", "dog"]), 2, 5, 0)  # two
    steps = Steps(captions, answering)
    assert len(steps) == 2

    def drawn(first: int = 0, epoch: int = 0) -> list[tuple[list[float], list[float]]]:
        return [
            (step.captions.images_B[:, 0, 0].tolist(), step.questions.images_B[:, 0, 0].tolist())
            for step in steps.epoch(epoch, first)
        ]

    assert drawn()[1:] == drawn(first=1)
    assert [own for _, own in drawn(epoch=1)] == [next(answering.epoch(n)).images_B[:, 0, 0].tolist() for n in (2, 3)]
    alone = Steps(None, answering)
    assert [step.captions for step in alone.epoch(0)] == [None]


def test_targets_follow_the_reader():
    reader = Reader(AnswererConfig(), LEXICON, longest=2)
    assert reader.words("what is it") == [4, 5]
    assert reader.targets(question(1, answers=["the dog"] * 4 + ["red"])) == {2: 1.0, 0: pytest.approx(1 / 3)}
    assert reader.targets(replace(question(1), answers=("purple",))) == {}
