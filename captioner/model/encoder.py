"""A torchvision CNN cut before pooling: a photo in, a grid of feature vectors out.

Shapes: B pictures, H x W pixels, P grid cells (rows x columns, row by row), C channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from captioner.config import Preprocessing
from captioner.model import compact

# The heads of torchvision's classifiers, and the pooling before them: what comes after the grid.
HEADS = frozenset(["avgpool", "fc", "classifier", "aux1", "aux2", "AuxLogits", "dropout"])
# Trained on pixels in [-1, 1]: torchvision hides this in their `transform_input`, which is outside the cut.
HALF_RANGE = frozenset(["googlenet", "inception_v3"])
# Names whose builder also makes training-only heads that the cut throws away.
WITHOUT_AUX = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
NOT_CNN = ("vit_", "swin_", "maxvit")


def backbones() -> list[str]:
    """Names of the torchvision CNNs that can be an encoder."""
    return [name for name in models.list_models(module=models) if not name.startswith(NOT_CNN)]


def encoders() -> list[str]:
    """All names of encoders: torchvision's and the compact ones."""
    return [*backbones(), *compact.NAMES]


def preprocessing_of(name: str, height: int = 224, width: int = 224) -> Preprocessing:
    """What the torchvision weights of this CNN expect, at the given size in pixels."""
    plain = Preprocessing(height=height, width=width)
    return replace(plain, mean=(0.5,) * 3, std=(0.5,) * 3) if name in HALF_RANGE else plain


class Encoder(nn.Module):
    """uint8 pixels [B, H, W, 3] to a grid [B, P, C]; normalises inside, so every caller hands over plain RGB.

    `weights` is "random", "torchvision" (its default weights, downloaded), "torchvision:NAME" (a member of the CNN's
    weights enum), a .safetensors, .pth or .pt file in torchvision's parameter names (a classifier in it is ignored), or
    the weights of a whole model of ours (a run's best.safetensors: its encoder is taken).
    `stage` is the last stage kept, None for all before pooling.
    """

    mean_3: Tensor
    std_3: Tensor

    def __init__(self, name: str, preprocessing: Preprocessing, weights: str = "random", stage: str | None = None):
        super().__init__()
        if name not in encoders():
            raise ValueError(f"encoder must be one of {', '.join(encoders())}, got {name!r}")
        self.name = name
        ours = _encoder_in(Path(weights))
        self.stages = nn.Sequential(_cut(_build(name, "random" if ours else weights)))
        if stage is not None:
            self.stages = self.stages[: self._stage(stage) + 1]
        if ours:
            try:
                self.load_state_dict(ours)
            except RuntimeError as e:
                raise _other(Path(weights), name, e) from e
        self.register_buffer("mean_3", torch.tensor(preprocessing.mean) * 255, persistent=False)
        self.register_buffer("std_3", torch.tensor(preprocessing.std) * 255, persistent=False)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        with torch.no_grad():
            probe = self.eval().feature_map(torch.zeros(1, preprocessing.height, preprocessing.width, 3).byte())
        self.train()
        if probe.dim() != 4:
            raise ValueError(f"encoder {name} does not end in a grid: its output has shape {tuple(probe.shape)}")
        self.rows, self.columns, self.channels = probe.shape[2], probe.shape[3], probe.shape[1]

    def fine_tune_from(self, stage: str | None) -> None:
        """Train this stage and all after it; None freezes the whole encoder, "all" trains it from the first stage."""
        first = len(self.stages) if stage is None else 0 if stage == "all" else self._stage(stage)
        for n, module in enumerate(self.stages):
            for parameter in module.parameters():
                parameter.requires_grad_(n >= first)
        self.train(self.training)

    def _stage(self, stage: str) -> int:
        names = [name for name, _ in self.stages.named_children()]
        if stage not in names:
            raise ValueError(f"stage of {self.name} must be one of {', '.join(names)}, got {stage!r}")
        return names.index(stage)

    def train(self, mode: bool = True) -> Encoder:
        """As nn.Module, but frozen stages keep their stored batch-norm statistics."""
        super().train(mode)
        for module in self.stages.children():
            if not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def feature_map(self, pixels_BHW3: Tensor) -> Tensor:
        """The cut network's own output [B, C, rows, columns]."""
        out: Tensor = self.stages(self._normalised(pixels_BHW3))
        return out

    def maps(self, pixels_BHW3: Tensor, stages: Sequence[int]) -> list[Tensor]:
        """What the stages of these numbers give [B, c, h, w], in their order."""
        x_BChw = self._normalised(pixels_BHW3)
        found = []
        for n, stage in enumerate(self.stages):
            x_BChw = stage(x_BChw)
            if n in stages:
                found.append(x_BChw)
        return found

    def _normalised(self, pixels_BHW3: Tensor) -> Tensor:
        pixels_B3HW = pixels_BHW3.permute(0, 3, 1, 2).to(self.mean_3.dtype)
        # (x - mean) / std; written so because onnxruntime turns a subtraction back to channels last, ten times slower.
        return functional.batch_norm(pixels_B3HW, self.mean_3, self.std_3.square(), eps=0.0)

    def forward(self, pixels_BHW3: Tensor) -> Tensor:
        return self.feature_map(pixels_BHW3).flatten(2).transpose(1, 2)


def classifier(name: str, weights: str) -> nn.Linear | None:
    """What gives torchvision's CNN its class scores from the mean of its grid, with its weights; None if there is no
    such single layer in the network or in the file."""
    if weights == "random":
        return None
    downloaded = weights.partition(":")[0] == "torchvision"
    state = _build(name, weights).state_dict() if downloaded else _read(Path(weights))
    layers = [key.removesuffix(".weight") for key in state if key.split(".")[0] in HEADS and key.endswith(".weight")]
    if len(layers) != 1 or state[f"{layers[0]}.weight"].dim() != 2:
        return None
    out, channels = state[f"{layers[0]}.weight"].shape
    layer = nn.Linear(channels, out)
    layer.load_state_dict({"weight": state[f"{layers[0]}.weight"], "bias": state[f"{layers[0]}.bias"]})
    return layer


def _build(name: str, weights: str) -> nn.Module:
    extra = WITHOUT_AUX.get(name, {})
    if weights.partition(":")[0] == "torchvision":
        if name in compact.NAMES:
            raise ValueError(f"torchvision has no weights of {name}: distil it (python -m training.distill)")
        members = models.get_model_weights(name).__members__
        member = weights.partition(":")[2] or "DEFAULT"
        if member not in members:
            raise ValueError(f"torchvision weights of {name} must be one of {', '.join(members)}, got {member!r}")
        model: nn.Module = models.get_model(name, weights=member)
        return model
    model = compact.build(name) if name in compact.NAMES else models.get_model(name, weights=None, **extra)
    if weights != "random":
        _load_file(model, name, Path(weights))
    return model


def _load_file(model: nn.Module, name: str, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"encoder weights file is missing: {path}")
    state = {key: value for key, value in _read(path).items() if key.split(".")[0] not in HEADS}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as e:
        raise _other(path, name, e) from e
    missing = [k for k in missing if k.split(".")[0] not in HEADS and not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        first = (missing or unexpected)[0]
        raise ValueError(
            f"{path} does not hold weights of {name}: {len(missing)} missing and {len(unexpected)} unknown parameters, "
            f"first {first}"
        )


def _other(path: Path, name: str, error: RuntimeError) -> ValueError:
    """load_state_dict's error in a line."""
    return ValueError(f"{path} does not hold weights of {name}: {str(error).splitlines()[-1].strip()}")


def _encoder_in(path: Path) -> dict[str, Tensor]:
    """The encoder's own state in a file of a whole model; {} in any other."""
    state = _read(path) if path.is_file() else {}
    return {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.stages.")}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # each format and each kind of damage has a class of its own
        raise ValueError(f"{path} is not a readable file of weights ({type(e).__name__})") from e
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold parameters by name")
    return state


def _cut(model: nn.Module) -> OrderedDict[str, nn.Module]:
    """Stages of a classifier up to its last grid, in order and by name."""
    stages = OrderedDict((name, module) for name, module in model.named_children() if name not in HEADS)
    if list(stages) in (["features"], ["layers"]):
        stages = OrderedDict(next(iter(stages.values())).named_children())
    last = list(stages)[-1]
    if isinstance(stages[last], nn.MaxPool2d):  # VGG and AlexNet pool once more inside `features`
        del stages[last]
    if isinstance(model, models.DenseNet):  # its last ReLU is a function in forward()
        stages["relu"] = nn.ReLU()
    return stages
