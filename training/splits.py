"""The files of a recipe, read, and the words in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from captioner.lexicon import Lexicon
from captioner.tokens import tokenize
from captioner.vocabulary import MARKS, Vocabulary
from eval.coco import CaptionSplit, load_split
from eval.questions import QuestionSplit, load_questions
from eval.visdial import load_visdial
from training.answers import answer_list
from training.recipe import CaptionFiles, QuestionFiles, Recipe


@dataclass(frozen=True)
class Data:
    """What a recipe learns from and is validated on."""

    captions: CaptionSplit | None
    validation_captions: CaptionSplit | None
    questions: tuple[QuestionSplit, ...]
    validation_questions: QuestionSplit | None


def load(recipe: Recipe, folder: Path) -> Data:
    """Read all files of a recipe under a folder; raises ValueError as the readers do."""
    asked = recipe.validation_questions
    return Data(
        None if recipe.train is None else _captions(recipe.train, folder),
        None if recipe.validation is None else _captions(recipe.validation, folder),
        tuple(_questions(files, folder) for files in recipe.train_questions),
        None if asked is None else _questions(asked, folder),
    )


def lexicon_of(recipe: Recipe, data: Data) -> Lexicon:
    """The words of the training captions, of the training questions, and the answers."""
    captions = Vocabulary(MARKS)
    if data.captions is not None:
        texts = (text for picture in data.captions.pictures for text in picture.captions)
        captions = Vocabulary.build(map(tokenize, texts), recipe.min_count)
    if recipe.model.answerer is None:
        return Lexicon(captions)
    asked = [question for split in data.questions for question in split.questions]
    answers = answer_list(asked, recipe.min_answers, recipe.most_answers)
    texts = (text for question in asked for text in (question.text, question.context))
    counted: list[Iterable[str]] = [*texts]
    # Words of answers are read too where answers are: as candidates, or in a dialog.
    if recipe.model.answerer.kind == "jabri" or recipe.model.answerer.history:
        repeated = [text for text in answers for _ in range(recipe.min_question_count)]
        counted += [*repeated, *(answer for question in asked for answer in question.answers[:1])]
    questions = Vocabulary.build((tokenize(str(text)) for text in counted), recipe.min_question_count)
    return Lexicon(captions, questions, answers)


def _captions(files: CaptionFiles, folder: Path) -> CaptionSplit:
    return load_split(folder / files.annotations, folder / files.pictures, files.split)


def _questions(files: QuestionFiles, folder: Path) -> QuestionSplit:
    annotations = None if files.annotations is None else folder / files.annotations
    if files.dialogs:
        names = (files.naming or "VisualDialog_val2018_{image_id:012d}.jpg").split("|")
        return load_visdial(folder / files.questions, folder / files.pictures, names, annotations)
    return load_questions(folder / files.questions, annotations, folder / files.pictures, files.naming)
