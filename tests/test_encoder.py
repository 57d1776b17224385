"""Encoders: torchvision's own features as a grid, what may be trained, weights from files, and their preprocessing.

Shapes: B pictures, P grid cells, C channels; pixels are [B, H, W, 3].
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from captioner.config import Preprocessing
from captioner.model.encoder import Encoder, backbones, preprocessing_of
from captioner.model.network import Network
from tests.conftest import TINY

SMALL = Preprocessing(64, 64)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def zero_weights(monkeypatch):
    """Random weights of the large networks cost seconds; where only shapes count, zeros do."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "xavier_uniform_", "trunc_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **options: tensor.data.zero_())


@pytest.mark.parametrize(
    ("name", "rows", "channels"),
    [
        ("vgg16", 4, 512),  # its last pooling is cut as well
        ("googlenet", 2, 1024),
        ("resnet18", 2, 512),
        ("resnet50", 2, 2048),
        ("resnet101", 2, 2048),
        ("mobilenet_v2", 2, 1280),
        ("convnext_tiny", 2, 768),
    ],
)
def test_each_gives_a_grid(zero_weights, pixels, name, rows, channels):
    encoder = Encoder(name, SMALL).eval()
    with torch.no_grad():
        grid_BPC = encoder(pixels)
    assert grid_BPC.shape == (2, rows * rows, channels)
    assert (encoder.rows, encoder.columns, encoder.channels) == (rows, rows, channels)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """As torchvision's ImageNet transform does it: [B, 3, H, W]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


def resnet_features(model: models.ResNet, x: torch.Tensor) -> torch.Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def test_the_grid_is_torchvisions_own_row_by_row(tmp_path):
    torch.manual_seed(0)
    model = models.resnet18().eval()
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    encoder = Encoder("resnet18", Preprocessing(64, 96), str(tmp_path / "resnet18.pth")).eval()
    pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        own = resnet_features(model, normalised(pixels))
        grid_BPC = encoder(pixels)
    assert (encoder.rows, encoder.columns) == (2, 3)
    for row in range(2):
        for column in range(3):
            torch.testing.assert_close(grid_BPC[:, 3 * row + column], own[:, :, row, column], atol=1e-4, rtol=1e-4)


def test_real_weights_from_a_file(shared, pixels):
    path = shared / "weights" / "mobilenet_v2.safetensors"
    model = models.mobilenet_v2().eval()
    model.load_state_dict(load_file(path), strict=False)
    encoder = Encoder("mobilenet_v2", SMALL, str(path)).eval()
    with torch.no_grad():
        own = model.features(normalised(pixels))
        torch.testing.assert_close(encoder.feature_map(pixels), own, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"mobilenet_v2.safetensors does not hold weights of resnet18: \d+ missing"):
        Encoder("resnet18", SMALL, str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_classifier_of_a_file_is_ignored(tmp_path, suffix):
    path = tmp_path / f"ten_classes{suffix}"
    state = models.resnet18(num_classes=10).state_dict()
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    encoder = Encoder("resnet18", SMALL, str(path))
    assert torch.equal(encoder.stages.conv1.weight, state["conv1.weight"])


def resnet_state(**changed: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = {**models.resnet18().state_dict(), **{key.replace("__", "."): value for key, value in changed.items()}}
    return {key: value for key, value in state.items() if value is not None}


class Command:
    """What a hostile pickle does when it is loaded."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code from a weights file was run')",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda: resnet_state(conv1__weight=None), "1 missing and 0 unknown parameters, first conv1.weight"),
        (
            lambda: resnet_state(layer5__weight=torch.zeros(1)),
            "0 missing and 1 unknown parameters, first layer5.weight",
        ),
        (lambda: resnet_state(bn1__weight=torch.zeros(7)), "size mismatch for bn1.weight"),
        (lambda: {"epoch": 3, "model": {}}, "does not hold parameters by name"),
        (lambda: torch.zeros(3), "does not hold parameters by name"),
        (Command, "is not a readable file of weights"),
    ],
)
def test_wrong_files_are_named(zero_weights, tmp_path, content, sentence):
    path = tmp_path / "mine.pth"
    torch.save(content(), path)
    with pytest.raises(ValueError, match=sentence) as error:
        Encoder("resnet18", SMALL, str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["mine.pth", "mine.safetensors"])
def test_damaged_and_missing_files(zero_weights, tmp_path, name):
    with pytest.raises(ValueError, match=f"encoder weights file is missing: .*{name}"):
        Encoder("resnet18", SMALL, str(tmp_path / name))
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=f"{name} is not a readable file of weights"):
        Encoder("resnet18", SMALL, str(tmp_path / name))


def test_the_encoder_of_a_trained_model_is_taken_from_its_weights(tmp_path):
    config = replace(TINY, encoder="resnet18", encoder_stage="layer1", preprocessing=SMALL)
    network = Network(config, vocabulary_size=6)
    network.save(tmp_path / "best.safetensors")
    encoder = Encoder("resnet18", SMALL, str(tmp_path / "best.safetensors"), "layer1")
    state = network.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(ValueError, match=r"best\.safetensors does not hold weights of resnet34: .*layer1"):
        Encoder("resnet34", SMALL, str(tmp_path / "best.safetensors"), "layer1")


def trainable(encoder: Encoder) -> set[str]:
    return {name.split(".")[1] for name, p in encoder.named_parameters() if p.requires_grad}


def test_fine_tuning_from_a_stage(pixels):
    encoder = Encoder("resnet18", SMALL)
    assert trainable(encoder) == set()
    encoder.fine_tune_from("layer3")
    assert trainable(encoder) == {"layer3", "layer4"}
    encoder.fine_tune_from("all")
    assert trainable(encoder) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    encoder.fine_tune_from(None)
    assert trainable(encoder) == set()


@pytest.mark.parametrize("frozen_before", [True, False])
def test_frozen_stages_keep_their_batch_norm(pixels, frozen_before):
    encoder = Encoder("resnet18", SMALL)
    if frozen_before:  # in whatever order the two are said
        encoder.fine_tune_from("layer4")
        encoder.train()
    else:
        encoder.train()
        encoder.fine_tune_from("layer4")
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder(pixels)
    moved = {name.split(".")[1] for name, value in encoder.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {"layer4"}
    assert not encoder.stages.layer3.training
    assert encoder.stages.layer4.training
    assert not encoder.eval().stages.layer4.training


def test_a_stage_can_be_the_last(zero_weights, pixels):
    encoder = Encoder("resnet18", SMALL, stage="layer3").eval()
    assert (encoder.rows, encoder.columns, encoder.channels) == (4, 4, 256)
    assert encoder(pixels).shape == (2, 16, 256)
    assert Network(replace(TINY, encoder="resnet18", encoder_stage="layer2"), 27).grid == (8, 8, 128)


def test_errors_name_the_value(zero_weights):
    assert {"resnet18", "vgg16", "mobilenet_v2"} < set(backbones())
    assert not {"vit_b_16", "swin_t", "maxvit_t"} & set(backbones())
    with pytest.raises(ValueError, match=r"encoder must be one of alexnet, .*, got 'resnet19'"):
        Encoder("resnet19", SMALL)
    stages = "stage of resnet18 must be one of conv1, bn1, relu, maxpool, layer1, layer2, layer3, layer4, got 'layer9'"
    with pytest.raises(ValueError, match=stages):
        Encoder("resnet18", SMALL, stage="layer9")
    with pytest.raises(ValueError, match=stages):
        Encoder("resnet18", SMALL).fine_tune_from("layer9")
    with pytest.raises(ValueError, match=r"torchvision weights of resnet18 must be one of IMAGENET1K_V1, .*, got 'V9'"):
        Encoder("resnet18", SMALL, "torchvision:V9")


def test_a_file_may_be_called_like_torchvision(zero_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"file is missing: torchvision_resnet18\.pth"):
        Encoder("resnet18", SMALL, "torchvision_resnet18.pth")


def what_stages_see(preprocessing: Preprocessing, pixels: torch.Tensor) -> torch.Tensor:
    encoder = Encoder("squeezenet1_1", preprocessing)
    encoder.stages = nn.Sequential()
    return encoder.feature_map(pixels)


def test_normalisation_is_inside(zero_weights, pixels):
    seen = what_stages_see(SMALL, torch.full((1, 64, 64, 3), 255, dtype=torch.uint8))
    assert seen[0, :, 0, 0].tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rel=1e-5)
    torch.testing.assert_close(what_stages_see(SMALL, pixels), normalised(pixels), atol=1e-5, rtol=1e-5)


def test_googlenet_sees_half_range(zero_weights, pixels):
    """torchvision's GoogLeNet undoes the ImageNet normalisation in its forward, which the cut leaves out."""
    as_torchvision = models.GoogLeNet._transform_input(SimpleNamespace(transform_input=True), normalised(pixels))
    seen = what_stages_see(preprocessing_of("googlenet", 64, 64), pixels)
    torch.testing.assert_close(seen, as_torchvision, atol=1e-5, rtol=1e-5)
    assert preprocessing_of("googlenet").mean == preprocessing_of("inception_v3").std == (0.5, 0.5, 0.5)
    assert preprocessing_of("resnet50", 96, 128) == Preprocessing(96, 128)
