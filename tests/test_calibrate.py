"""Batch-norm statistics of a random encoder: those of the pictures it will see."""

import numpy as np
import pytest
import torch

from captioner.model.encoder import Encoder, preprocessing_of
from captioner.preprocess import load_pixels
from eval.coco import load_split
from tests import tiny_training as tiny
from training import calibrate as module
from training.calibrate import calibrate

SIZE = preprocessing_of("resnet18", 64, 64)


@pytest.fixture(scope="module")
def pictures(tiny_data):
    return load_split(tiny_data / "captions_train.json", tiny_data / "train").pictures


def random_encoder(name="resnet18", stage="layer1"):
    torch.manual_seed(0)
    return Encoder(name, preprocessing_of(name, 64, 64), "random", stage)


def calibrated(pictures):
    encoder = random_encoder()
    calibrate(encoder, SIZE, pictures)
    return encoder


def test_channels_are_centred_and_scaled_on_the_pictures(pictures):
    encoder = calibrated(pictures)
    outputs = []
    encoder.stages.bn1.register_forward_hook(lambda _, __, output: outputs.append(output.clone()))
    pixels_BHW3 = torch.from_numpy(np.stack([load_pixels(p.path, SIZE) for p in pictures]))
    with torch.no_grad():
        encoder.eval()(pixels_BHW3)
    torch.testing.assert_close(outputs[0].mean((0, 2, 3)), torch.zeros(64), atol=1e-3, rtol=0)
    torch.testing.assert_close(outputs[0].std((0, 2, 3)), torch.ones(64), atol=1e-2, rtol=0)


def test_the_same_every_time_and_the_rest_of_the_encoder_as_it_was(pictures):
    first, second, plain = calibrated(pictures), calibrated(pictures), random_encoder()
    assert first.training
    assert all(norm.momentum == 0.1 for norm in first.modules() if isinstance(norm, torch.nn.BatchNorm2d))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, plain.state_dict()[name])


def test_batches_are_averaged_and_unreadable_pictures_left_out(pictures, tmp_path, monkeypatch):
    whole = calibrated(pictures[:4]).state_dict()["stages.bn1.running_mean"]
    broken = pictures[0].__class__(**{**vars(pictures[0]), "path": tmp_path / "missing.png"})
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "PICTURES", 4)
    parts = calibrated([broken, *pictures]).state_dict()["stages.bn1.running_mean"]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_an_encoder_without_batch_norm_is_left_alone(pictures):
    encoder = random_encoder("vgg16", "4")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    calibrate(encoder, SIZE, pictures)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_run_refuses_to_go_on_with_another_encoder(tmp_path):
    data = tiny.draw(tmp_path / "data")
    tiny.run(tiny.tiny_frozen(), data, tmp_path / "run")
    name = load_split(data / "captions_train.json", data / "train").pictures[0].path
    name.write_bytes(b"")
    with pytest.raises(ValueError, match="was trained with another encoder"):
        tiny.run(tiny.tiny_frozen(), data, tmp_path / "run")
