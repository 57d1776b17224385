"""The teacher of a distillation: a CNN that says what it makes of the student's pictures.

Shapes: B pictures, H x W pixels, C channels, P grid cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from captioner.images import photo_files
from captioner.model import graphs
from captioner.model.encoder import Encoder, classifier, preprocessing_of
from eval.coco import CocoPicture


class Teacher:
    """A torchvision CNN with weights, run by onnxruntime where there is no GPU: several times as fast as torch."""

    def __init__(self, name: str, weights: str, device: torch.device):
        self.name, self.weights, self.device = name, weights, device
        layer = classifier(name, weights)
        self.classifier = None if layer is None else layer.to(device).requires_grad_(False)
        self._sizes: dict[int, _Sized] = {}

    def at(self, size: int) -> _Sized:
        """The teacher for pictures of size x size pixels."""
        if size not in self._sizes:
            self._sizes[size] = _Sized(self.name, self.weights, size, self.device)
        return self._sizes[size]


class _Sized:
    """The teacher at one size."""

    def __init__(self, name: str, weights: str, size: int, device: torch.device):
        preprocessing = preprocessing_of(name, size, size)
        self.encoder = Encoder(name, preprocessing, weights).eval().to(device)
        self.session = None
        if device.type == "cpu":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the student needs the cores
            with tempfile.TemporaryDirectory() as folder:
                graphs.write_encoder(self.encoder, preprocessing, Path(folder) / graphs.ENCODER)
                self.session = onnxruntime.InferenceSession(str(Path(folder) / graphs.ENCODER), options)

    @torch.inference_mode()
    def __call__(self, pixels_BHW3: Tensor) -> Tensor:
        """uint8 pixels to a map [B, C, rows, columns]."""
        if self.session is None:
            return self.encoder.feature_map(pixels_BHW3.to(self.encoder.mean_3.device))
        grid_BPC = torch.from_numpy(self.session.run(None, {"pixels": pixels_BHW3.numpy()})[0])
        return grid_BPC.transpose(1, 2).unflatten(2, (self.encoder.rows, self.encoder.columns))


def pictures_in(folders: Sequence[Path]) -> list[CocoPicture]:
    """Every photo of the folders, by name; ValueError for a folder without any."""
    paths = [path for folder in folders for path in photo_files(folder)]
    return [CocoPicture(n, path, ()) for n, path in enumerate(paths)]
