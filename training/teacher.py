"""The teacher of a distillation: a CNN that says what it makes of the student's pictures.

Shapes: B pictures, H x W pixels, C channels, h x w grid cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captioner.images import photo_files
from captioner.model import graphs
from captioner.model.encoder import Encoder, classifier, preprocessing_of
from captioner.model.quantize_encoder import quantize_encoder
from eval.coco import CocoPicture

FINEST = 4
"""Pixels to a cell of the finest grid that is compared."""


class Teacher:
    """A torchvision CNN with weights, run by onnxruntime where there is no GPU: several times as fast as torch.

    Calibrated on photos [N, H, W, 3] it computes in int8 there, 2.35 times as fast again (MobileNetV2, 32 pictures, 2
    threads: 114 against 267 ms), with class scores 0.015 nats from its own.

    It looks at pictures of one size: with smaller ones it would say something else. MobileNetV2's class scores of 60
    pictures at 128, 160 and 192 pixels are 4.0, 1.7 and 0.6 nats (KL) from those at 224.
    """

    def __init__(
        self, name: str, size: int, weights: str, device: torch.device, photos: NDArray[np.uint8] | None = None
    ):
        preprocessing = preprocessing_of(name, size, size)
        self.encoder = Encoder(name, preprocessing, weights).eval().to(device)
        self.grids = last_of_each_grid(self.encoder, size)
        layer = classifier(name, weights)
        self.classifier = None if layer is None else layer.to(device).requires_grad_(False)
        self.device = device
        self.session = None
        if device.type == "cpu":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the student needs the cores
            with tempfile.TemporaryDirectory() as folder:
                graph = Path(folder) / graphs.ENCODER
                names = [f"map_{cell}" for cell in self.grids]
                graphs.write_encoder(_Maps(self.encoder, list(self.grids.values())), preprocessing, graph, names)
                if photos is not None:
                    quantize_encoder(graph, graph, list(photos))
                self.session = onnxruntime.InferenceSession(str(graph), options)

    @torch.inference_mode()
    def __call__(self, pixels_BHW3: Tensor) -> list[Tensor]:
        """uint8 pixels to the maps [B, C, h, w] of `grids`, the coarsest last."""
        if self.session is None:
            return self.encoder.maps(pixels_BHW3.to(self.device), list(self.grids.values()))
        return [torch.from_numpy(map_BChw) for map_BChw in self.session.run(None, {"pixels": pixels_BHW3.numpy()})]


class _Maps(nn.Module):
    def __init__(self, encoder: Encoder, stages: Sequence[int]):
        super().__init__()
        self.encoder, self.stages = encoder, stages

    def forward(self, pixels_BHW3: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder.maps(pixels_BHW3, self.stages))


@torch.inference_mode()
def last_of_each_grid(encoder: Encoder, size: int) -> dict[int, int]:
    """The number of the last stage of each grid, by the pixels that a cell of it stands for, at least FINEST."""
    pixels_1HW3 = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=encoder.mean_3.device)
    maps = encoder.maps(pixels_1HW3, range(len(encoder.stages)))
    cells = {round(size / map_BChw.shape[2]): n for n, map_BChw in enumerate(maps)}
    return {cell: n for cell, n in cells.items() if cell >= FINEST}


def pictures_in(folders: Sequence[Path]) -> list[CocoPicture]:
    """Every photo of the folders, by name; ValueError for a folder without any."""
    paths = [path for folder in folders for path in photo_files(folder)]
    return [CocoPicture(n, path, ()) for n, path in enumerate(paths)]
