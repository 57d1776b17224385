"""Validation as the model is used: free-running search, scored as captions. Never teacher-forced."""

from __future__ import annotations

import torch
import torch.distributed as dist
from tqdm import tqdm

from captioner.config import SearchOptions
from captioner.model.network import CaptionNetwork
from captioner.tokens import sentence
from captioner.vocabulary import END, Vocabulary
from eval.metrics import score_captions
from training.data import PictureSet

BATCH = 50


@torch.inference_mode()
def captions_of(
    network: CaptionNetwork, images: PictureSet, vocabulary: Vocabulary, options: SearchOptions, device: torch.device
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


def validate(
    network: CaptionNetwork, images: PictureSet, vocabulary: Vocabulary, options: SearchOptions, device: torch.device
) -> dict[str, float]:
    """Caption metrics of the network as it stands; leaves it in training mode if it was."""
    was_training = network.training
    captions = captions_of(network.eval(), images, vocabulary, options, device)
    network.train(was_training)
    references = {picture.image_id: list(picture.captions) for picture in images.pictures}
    return score_captions(captions, {image_id: references[image_id] for image_id in captions})
