"""Validation as the model is used: free-running search and best answers, scored officially. Never teacher-forced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tqdm import tqdm

from captioner.config import SearchOptions
from captioner.lexicon import Lexicon
from captioner.model.network import Network
from captioner.tokens import sentence
from captioner.vocabulary import END, Vocabulary
from eval.metrics import score_captions
from eval.metrics.ranking import ndcg, ranking
from eval.metrics.vqa import vqa_accuracy
from eval.questions import Question, QuestionSplit
from training.data import PictureSet
from training.questions import Reader, chooses, question_table
from training.recipe import Recipe

BATCH = 50
"""Pictures."""
QUESTIONS = 256


@torch.inference_mode()
def captions_of(
    network: Network, images: PictureSet, vocabulary: Vocabulary, options: SearchOptions, device: torch.device
) -> dict[int, str]:
    """The best caption of each picture by image id; several processes share the work and all get the whole."""
    process, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = images.usable[process::processes]
    captions: dict[int, str] = {}
    for start in tqdm(range(0, len(mine), BATCH), desc="validation", leave=False, disable=process > 0):
        positions = mine[start : start + BATCH]
        images_B = images.images(positions, [0] * len(positions)).to(device)
        found = network.find(network.encoder(images_B) if images_B.dim() == 4 else images_B, options)
        for position, words in zip(positions, found.words_BKT[:, 0].tolist(), strict=True):
            text = sentence(vocabulary.words[n] for n in words if n > END)
            captions[images.pictures[position].image_id] = text
    if processes > 1:
        parts: list[dict[int, str]] = [{}] * processes
        dist.all_gather_object(parts, captions)
        captions = {image_id: text for part in parts for image_id, text in part.items()}
    return captions


@torch.inference_mode()
def scores_of(
    network: Network, images: PictureSet, reader: Reader, questions: Sequence[Question], device: torch.device
) -> dict[int, NDArray[np.float32]]:
    """Scores of the answers, or of its own candidates, by position in `questions`; unreadable pictures are left out.

    Several processes share the work and all get the whole.
    """
    assert network.answerer is not None
    process, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    position = {picture.path: n for n, picture in enumerate(images.pictures)}
    usable = set(images.usable)
    mine = [n for n, question in enumerate(questions) if position[question.path] in usable][process::processes]
    known_AW = reader.candidates(reader.lexicon.answers) if reader.config.kind == "jabri" else None
    scores: dict[int, NDArray[np.float32]] = {}
    for start in tqdm(range(0, len(mine), QUESTIONS), desc="validation", leave=False, disable=process > 0):
        part = [questions[n] for n in mine[start : start + QUESTIONS]]
        rows = sorted({position[question.path] for question in part})
        images_B = images.images(rows, [0] * len(rows)).to(device)
        grid_BPC = network.encoder(images_B) if images_B.dim() == 4 else images_B
        row = {n: b for b, n in enumerate(rows)}
        grid_NPC = grid_BPC[[row[position[question.path]] for question in part]]
        question_NQ, history_NQ = (table.to(device)[:, None] for table in question_table(reader, part))
        candidates_AW, options_BKO = known_AW, None
        if chooses(questions):
            candidates_AW, own_options = reader.choices(part)
            options_BKO = torch.tensor(own_options)[:, None]
        extra = (x if x is None else x.to(device) for x in (candidates_AW, options_BKO))
        found = network.answerer(grid_NPC, question_NQ, history_NQ, *extra)
        for n, scores_A in zip(
            mine[start : start + QUESTIONS], found.scores_BKA[:, 0].float().cpu().numpy(), strict=True
        ):
            scores[n] = scores_A
    if processes > 1:
        parts: list[dict[int, NDArray[np.float32]]] = [{}] * processes
        dist.all_gather_object(parts, scores)
        scores = {n: scores_A for part in parts for n, scores_A in part.items()}
    return scores


class Validation:
    """The metrics of a network as it stands, on captions, questions or both."""

    def __init__(
        self,
        recipe: Recipe,
        images: PictureSet,
        lexicon: Lexicon,
        questions: QuestionSplit | None,
        device: torch.device,
    ):
        self.recipe, self.images, self.lexicon, self.device = recipe, images, lexicon, device
        self.questions = questions
        self.captioned = PictureSet([picture for picture in images.pictures if picture.captions], images.caches)

    def __call__(self, network: Network) -> dict[str, float]:
        """Metrics by name; leaves the network in training mode if it was."""
        was_training = network.training
        network.eval()
        metrics: dict[str, float] = {}
        if self.recipe.validation is not None:
            # Pictures with captions come first, so that their rows are those of the whole.
            found = captions_of(network, self.captioned, self.lexicon.captions, self.recipe.validate_with, self.device)
            references = {picture.image_id: list(picture.captions) for picture in self.captioned.pictures}
            metrics |= score_captions(found, {image_id: references[image_id] for image_id in found})
        if self.questions is not None:
            metrics |= self._answers(network, self.questions)
        if "Bleu_4" in metrics and "accuracy" in metrics:
            metrics["Bleu_4 + accuracy"] = metrics["Bleu_4"] + metrics["accuracy"]
        network.train(was_training)
        return metrics

    def _answers(self, network: Network, split: QuestionSplit) -> dict[str, float]:
        assert network.answerer is not None
        reader = Reader(network.answerer.config, self.lexicon, self.recipe.longest)
        asked = [question for question in split.questions if question.choices] or list(split.questions)
        scores = scores_of(network, self.images, reader, asked, self.device)
        if chooses(asked):
            numbers = sorted(scores)
            table_NO = np.stack([scores[n] for n in numbers])
            correct_N = np.array([asked[n].correct_choice for n in numbers])
            found = ranking(table_NO, correct_N)
            judged = [n for n, number in enumerate(numbers) if any(asked[number].relevance)]
            if judged:
                found["NDCG"] = ndcg(table_NO[judged], [asked[numbers[n]].relevance for n in judged])
            return {name.lower(): score.value for name, score in found.items()}
        said = {asked[n].question_id: self.lexicon.answers[int(row.argmax())] for n, row in scores.items()}
        annotations = [entry for entry in split.annotations if entry["question_id"] in said]
        return {"accuracy": vqa_accuracy(said, annotations).overall}
