"""Batch-norm statistics for an encoder with random weights.

Untrained statistics (mean 0, variance 1) leave the channels of random features all but alike. With those of real
pictures every channel is centred and scaled, as in data-dependent initialisation (Mishkin and Matas, 2016), and a
decoder learns from them in half the epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from captioner.config import Preprocessing
from captioner.images import BadImage
from captioner.model.encoder import Encoder
from captioner.preprocess import load_pixels
from eval.coco import CocoPicture

PICTURES = 256
BATCH = 64


@torch.no_grad()
def calibrate(encoder: Encoder, preprocessing: Preprocessing, pictures: Sequence[CocoPicture]) -> None:
    """Set every batch norm to the mean statistics of the first PICTURES readable pictures, in batches of BATCH."""
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    for pixels_BHW3 in _batches(preprocessing, pictures):
        encoder(pixels_BHW3.to(encoder.mean_3.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.train()


def _batches(preprocessing: Preprocessing, pictures: Sequence[CocoPicture]) -> Iterator[Tensor]:
    pixels, read = [], 0
    for picture in pictures:
        try:
            pixels.append(load_pixels(picture.path, preprocessing))
        except (BadImage, OSError):
            continue  # said where all pictures are read
        read += 1
        if len(pixels) == BATCH or read == PICTURES:
            yield torch.from_numpy(np.stack(pixels))
            pixels = []
        if read == PICTURES:
            return
    if pixels:
        yield torch.from_numpy(np.stack(pixels))
