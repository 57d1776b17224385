"""The teacher of a distillation: its pictures in augmented views, and what it makes of them, kept in memory maps.

Shapes: B pictures, H x W pixels, C channels, P grid cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captioner.model import graphs
from captioner.model.encoder import Encoder, classifier, preprocessing_of
from eval.coco import CocoPicture
from training.data import PictureSet
from training.features import PictureCache, encoder_digest, pixels_of

SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp"])


class Views:
    """Pictures as the teacher's pixels, and what the teacher makes of them."""

    def __init__(self, pixels: PictureSet, grids: PictureSet):
        self.pixels, self.grids = pixels, grids
        self.usable = sorted({*pixels.usable} & {*grids.usable})

    def batch(self, positions: Sequence[int], views: Sequence[int]) -> tuple[Tensor, Tensor]:
        """uint8 pixels [B, H, W, 3] and the teacher's grid [B, P, C]."""
        return self.pixels.images(positions, views), self.grids.images(positions, views)


class Teacher:
    """A torchvision CNN with weights, run by onnxruntime where there is no GPU: several times as fast as torch."""

    def __init__(self, name: str, size: int, weights: str, device: torch.device):
        self.preprocessing = preprocessing_of(name, size, size)
        self.encoder = Encoder(name, self.preprocessing, weights).eval().to(device)
        layer = classifier(name, weights)
        self.classifier = None if layer is None else layer.to(device).requires_grad_(False)
        self.digest = encoder_digest(self.encoder, self.preprocessing)
        self.session = None
        if device.type == "cpu":
            import onnxruntime

            with tempfile.TemporaryDirectory() as folder:
                graphs.write_encoder(self.encoder, self.preprocessing, Path(folder) / graphs.ENCODER)
                self.session = onnxruntime.InferenceSession(str(Path(folder) / graphs.ENCODER))

    @torch.inference_mode()
    def __call__(self, pixels_BHW3: NDArray[np.uint8]) -> NDArray[np.generic]:
        """The grid [B, P, C] in half precision."""
        if self.session is not None:
            grid_BPC: NDArray[np.float32] = self.session.run(None, {"pixels": pixels_BHW3})[0]
            return grid_BPC.astype(np.float16)
        return self.encoder(torch.from_numpy(pixels_BHW3).to(self.encoder.mean_3.device)).half().cpu().numpy()

    def views(self, pictures: Sequence[CocoPicture], count: int, folder: Path) -> Views:
        """Make or find the caches."""
        shape = (self.encoder.rows * self.encoder.columns, self.encoder.channels)
        pixels = [pixels_of(self.preprocessing, pictures, view, folder) for view in range(count)]
        grids = [
            PictureCache(folder, pictures, view, self.digest).open(self.preprocessing, shape, "float16", self)
            for view in range(count)
        ]
        return Views(PictureSet(pictures, pixels), PictureSet(pictures, grids))


def pictures_in(folders: Sequence[Path]) -> list[CocoPicture]:
    """Every picture file of the folders, by name; ValueError for a folder without any."""
    found: list[CocoPicture] = []
    for folder in folders:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
        if not paths:
            raise ValueError(f"no pictures in {folder}")
        found += [CocoPicture(len(found) + n, path, ()) for n, path in enumerate(paths)]
    return found
