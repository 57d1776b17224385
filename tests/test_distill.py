"""Compact encoders, and their distillation from a teacher."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import mobilenet_v2

from captioner.atomic import write_json
from captioner.bundle import BOX, Bundle
from captioner.config import Preprocessing
from captioner.engine import Session
from captioner.lexicon import Lexicon
from captioner.model import compact
from captioner.model.encoder import Encoder, classifier, preprocessing_of
from captioner.model.network import Network
from captioner.vocabulary import MARKS, Vocabulary
from tests.conftest import TINY, tiny_photos
from training.distillation import Distillation, Settings, _distance, scaled
from training.features import pixels_of
from training.speaker import Speaker
from training.teacher import Teacher, last_of_each_grid, pictures_in
from training.unquantize import restore

PIXELS = preprocessing_of("mobilenet_v2", 64, 64)
SETTINGS = Settings("residual_16", 64, "mobilenet_v2", growth=((32, 1),), teacher_size=64, batch=4, warmup_steps=3)


@pytest.mark.parametrize("name", ["residual_16", "depthwise_16", "residual_32", "depthwise_48"])
def test_the_grid_is_a_32nd_of_the_picture(name):
    encoder = Encoder(name, Preprocessing(96, 64)).eval()
    assert (encoder.rows, encoder.columns, encoder.channels) == (3, 2, compact.HEAD)
    assert encoder(torch.zeros(2, 96, 64, 3, dtype=torch.uint8)).shape == (2, 6, compact.HEAD)


def test_an_unknown_shape_names_those_that_exist():
    with pytest.raises(ValueError, match=r"residual_32.*got 'residual_33'"):
        compact.build("residual_33")


def test_torchvision_has_no_weights_of_a_compact_encoder():
    with pytest.raises(ValueError, match=r"training\.distill"):
        Encoder("residual_16", Preprocessing(64, 64), "torchvision")


def test_channels_double_from_stage_to_stage():
    outputs = [stage[-1] for stage in list(compact.build("residual_16").children())[1:5]]
    assert [block.branch[-1].num_features for block in outputs] == [16, 32, 64, 128]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A MobileNetV2 with random weights, as a file."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("teacher") / "mobilenet_v2.safetensors"
    model = mobilenet_v2(num_classes=7)
    with torch.no_grad():
        for _ in range(20):  # batch norms as of a trained network: without, its grid is all zeros
            model(torch.randn(8, 3, 64, 64))
    save_file(model.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for n in range(13):
        colours = random.integers(0, 255, (3, 3, 3), np.uint8)
        Image.fromarray(colours).resize((70, 60), Image.Resampling.BICUBIC).save(folder / f"{n:02d}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def make(weights, pictures, tmp_path_factory):
    """A new run in a folder; teacher and caches are shared."""
    features = tmp_path_factory.mktemp("features")
    teacher = Teacher("mobilenet_v2", 64, weights, torch.device("cpu"))
    train, validation = (pixels_of(PIXELS, pictures_in([pictures])[:n], 0, features) for n in (13, 3))

    def run(out, settings=SETTINGS):
        return Distillation(settings, teacher, train, validation, out)

    return run


def test_the_classifier_is_the_layer_after_the_grid(weights, tmp_path):
    layer = classifier("mobilenet_v2", weights)
    assert layer is not None
    assert torch.equal(layer.weight, load_file(weights)["classifier.1.weight"])
    assert classifier("mobilenet_v2", "random") is None
    save_file({"features.0.0.weight": torch.zeros(1)}, tmp_path / "no_head.safetensors")
    assert classifier("mobilenet_v2", str(tmp_path / "no_head.safetensors")) is None


def test_the_teacher_in_onnxruntime_is_the_teacher_in_torch(make, weights, tmp_path):
    teacher = make(tmp_path).teacher
    pixels_BHW3 = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), np.uint8))
    with torch.inference_mode():
        expected = teacher.encoder.feature_map(pixels_BHW3)
    torch.testing.assert_close(teacher(pixels_BHW3)[-1], expected, atol=1e-4, rtol=1e-4)


def test_a_calibrated_teacher_says_nearly_the_same(make, weights, tmp_path):
    run = make(tmp_path)
    photos_BHW3 = np.array(run.train.rows[:8])
    calibrated = Teacher("mobilenet_v2", 64, weights, torch.device("cpu"), photos_BHW3)
    exact, rounded = (teacher(torch.from_numpy(photos_BHW3))[-1] for teacher in (run.teacher, calibrated))
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).square().mean() < 0.05 * exact.var()


def test_finer_grids_are_compared_with_those_of_as_many_pixels_a_cell(make, tmp_path):
    run = make(tmp_path)
    assert last_of_each_grid(run.teacher.encoder, 64) == {4: 3, 8: 6, 16: 13, 32: 18}
    assert (run.stages, run.told) == ([1, 2, 3, 5], [0, 1, 2, 3])
    assert [(a.in_channels, a.out_channels) for a in run.adapters] == [(16, 24), (32, 32), (64, 96)]
    assert [len(weights_C) for weights_C in run.channel_weights] == [24, 32, 96, 1280]
    without = make(tmp_path, replace(SETTINGS, hint_weight=0.0))
    assert (without.stages, without.told, len(without.adapters)) == ([5], [3], 0)


def test_finer_grids_are_learnt(make, tmp_path):
    run = make(tmp_path)

    def far():
        pixels_BHW3, told = next(run._whole(run.train, run.usable))
        with torch.no_grad():
            maps = run.student.eval().maps(pixels_BHW3, run.stages)
            pairs = zip(run.adapters, maps, told, run.channel_weights, strict=False)
            return [float(_distance(a(mine), hint, weights_C)) for a, mine, hint, weights_C in pairs]

    before = far()
    run.run(10)
    assert all(after < 0.8 * first for first, after in zip(before, far(), strict=True))


def test_scaled_pixels_are_those_of_the_runtime():
    pixels_HW3 = np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8)
    ours = scaled(torch.from_numpy(pixels_HW3)[None], 40)[0].numpy().astype(int)
    pillow = np.asarray(Image.fromarray(pixels_HW3).resize((40, 40), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - pillow).max() <= 1


def test_the_student_comes_nearer_and_is_an_encoder(make, tmp_path):
    run = make(tmp_path, replace(SETTINGS, average_decay=0.5))
    before = run.validate(64)
    after = run.run(8)
    assert after["val_grid"] < 0.9 * before["val_grid"]
    student = Encoder("residual_16", Preprocessing(64, 64), str(tmp_path / "encoder.safetensors"))
    for name, value in student.state_dict().items():
        assert torch.equal(value, run.average[name]), name
    assert json.loads((tmp_path / "settings.json").read_text())["student"] == "residual_16"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


class KilledError(Exception):
    pass


def test_a_killed_run_ends_with_the_same_weights(make, tmp_path, monkeypatch):
    make(tmp_path / "whole").run(4)
    run, step = make(tmp_path / "killed"), Distillation._train_step

    def until(self, *batch):
        if self.step == 7:
            raise KilledError
        return step(self, *batch)

    monkeypatch.setattr(Distillation, "_train_step", until)
    with pytest.raises(KilledError):
        run.run(4, checkpoint_seconds=0.0)
    monkeypatch.undo()
    make(tmp_path / "killed").run(4)
    whole, killed = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_more_epochs_go_on_from_before_the_fall(make, tmp_path):
    make(tmp_path / "once").run(8)
    make(tmp_path / "pieces").run(4)
    make(tmp_path / "pieces").run(8)
    once, pieces = (load_file(tmp_path / name / "encoder.safetensors") for name in ("once", "pieces"))
    assert all(torch.equal(once[name], pieces[name]) for name in once)
    lines = (tmp_path / "pieces" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_other_settings_in_the_same_folder_are_refused(make, tmp_path):
    make(tmp_path).run(1)
    with pytest.raises(ValueError, match="other settings"):
        make(tmp_path, replace(SETTINGS, learning_rate=1e-3)).run(1)


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no photo"):
        pictures_in([tmp_path])


def test_unreadable_pictures_are_left_out(pictures, weights, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(pictures.glob("*.png"))[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "00.png").write_bytes(b"no picture")
    cache = pixels_of(PIXELS, pictures_in([folder]), 0, tmp_path / "features")
    run = Distillation(SETTINGS, Teacher("mobilenet_v2", 64, weights, torch.device("cpu")), cache, cache, tmp_path)
    assert run.usable == [1, 2]
    assert sum(len(pixels_BHW3) for pixels_BHW3, *_ in run.validation) == 2


def test_a_run_may_begin_with_the_weights_of_another(make, tmp_path):
    make(tmp_path / "first").run(1)
    file = tmp_path / "first" / "encoder.safetensors"
    run = make(tmp_path / "second", replace(SETTINGS, weights=str(file)))
    for name, value in load_file(file).items():
        assert torch.equal(run.student.state_dict()[f"stages.{name}"], value), name


def test_the_student_grows_and_the_teacher_does_not(make, tmp_path):
    run = make(tmp_path, replace(SETTINGS, size=96, growth=((32, 1), (48, 2))))
    assert [run._size(epoch) for epoch in range(5)] == [32, 48, 48, 96, 96]
    for epoch in (0, 1, 4):
        pixels_BHW3, maps, said = run._views(np.arange(3), epoch, 0)
        assert (pixels_BHW3.shape, maps[-1].shape, said) == ((3, 64, 64, 3), (3, 1280, 2, 2), None)


@pytest.mark.parametrize(("name", "value"), [("crop", 1.5), ("mixed", -0.1), ("batch", 0), ("size", 16)])
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        replace(SETTINGS, **{name: value})


def test_the_weights_of_an_int8_bundle_are_taught_further():
    bundle = Bundle.open(BOX)
    photos_BHW3 = np.stack(tiny_photos(6, bundle.model.preprocessing.height, bundle.model.preprocessing.width))
    encoder = Encoder(bundle.model.encoder, bundle.model.preprocessing)
    fresh = [module.weight.std() for module in encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    restore(encoder, BOX, torch.from_numpy(photos_BHW3))
    expected = Session(bundle.graph("encoder", "int8")).run(["grid"], {"pixels": photos_BHW3})[0]
    with torch.inference_mode():
        found = encoder(torch.from_numpy(photos_BHW3)).numpy()
    assert np.square(found - expected).mean() < 0.03 * expected.var()
    sizes = [module.weight.std() for module in encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    assert all(0.5 < size / first < 2 for size, first in zip(sizes[:-1], fresh[:-1], strict=True))


def test_a_bundle_of_another_encoder_is_refused(tiny_bundle, tmp_path):
    encoder = Encoder("residual_16", PIXELS)
    with pytest.raises(ValueError, match=r"not of residual_16"):
        restore(encoder, tiny_bundle, torch.zeros(1, 64, 64, 3, dtype=torch.uint8))


@pytest.fixture(scope="module")
def spoken(weights, tmp_path_factory):
    """A run that captions on the teacher's grid, as far as a Speaker reads one."""
    return _captioning_run(tmp_path_factory.mktemp("captions"), weights)


def _captioning_run(out, weights, **changes):
    config = replace(TINY, encoder="mobilenet_v2", encoder_stage=None, preprocessing=PIXELS, **changes)
    lexicon = Lexicon(Vocabulary([*MARKS, *"abcdefg"]))
    torch.manual_seed(1)
    network = Network(config, encoder_weights=weights, **lexicon.sizes)
    with torch.no_grad():
        for parameter in network.decoder.parameters():
            parameter *= 3  # random words hardly depend on the picture
    network.save(out / "best.safetensors")
    lexicon.save(out, config)
    write_json(out / "run.json", {"recipe": {"model": asdict(config)}})
    return out


def test_a_speaker_says_the_same_of_the_same(spoken):
    speaker = Speaker(spoken, "mobilenet_v2", torch.device("cpu"))
    map_BChw = torch.randn(4, 1280, 2, 2)
    said, again, other = (speaker.say(map_BChw, seed) for seed in (5, 5, 6))
    assert torch.equal(said.words_BKT, again.words_BKT)
    assert said.words_BKT.shape != other.words_BKT.shape or not torch.equal(said.words_BKT, other.words_BKT)
    assert len(said.log_probs_MV) == said.lengths_BK.sum()
    torch.testing.assert_close(said.log_probs_MV.exp().sum(1), torch.ones(len(said.log_probs_MV)))
    assert abs(float(speaker.loss(map_BChw, said))) < 1e-5


def test_what_a_speaker_misses_is_the_divergence_of_its_words(spoken):
    speaker = Speaker(spoken, "mobilenet_v2", torch.device("cpu"))
    teacher_BChw, student_BChw = torch.randn(1, 1280, 2, 2), torch.randn(1, 1280, 1, 1, requires_grad=True)
    said = speaker.say(teacher_BChw, 0)
    loss = speaker.loss(student_BChw, said)
    expected, words = 0.0, 0
    memories = [speaker.decoder.start(x.detach().flatten(2).transpose(1, 2)) for x in (teacher_BChw, student_BChw)]
    for k, length in enumerate(said.lengths_BK[0].tolist()):
        (one, state), (two, other) = memories
        for t in range(length):
            word_11 = said.words_BKT[:, k : k + 1, t]
            p, state, _ = speaker.decoder.step(torch.tensor(t), word_11, state.view(1, 1, -1), one)
            q, other, _ = speaker.decoder.step(torch.tensor(t), word_11, other.view(1, 1, -1), two)
            expected, words = expected + float((p.exp() * (p - q)).sum()), words + 1
    assert loss.item() == pytest.approx(expected / words, rel=1e-4)
    loss.backward()
    assert student_BChw.grad.abs().sum() > 0
    assert all(p.grad is None for p in speaker.decoder.parameters())


def test_words_join_the_loss_and_the_metrics(make, spoken, tmp_path):
    losses = []
    for weight in (0.0, 100.0, 300.0):
        run = make(tmp_path / str(weight), replace(SETTINGS, captioner=str(spoken), word_weight=weight))
        losses.append(run._train_step(run._views(np.arange(4), 0, 0), 64, 0.0))
        assert run.validate(64)["val_words"] > 0.001
    assert losses[1] - losses[0] > 0.1
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=0.02)


@pytest.mark.parametrize(("changes", "message"), [({"positions": True}, "positions"), ({}, "whole encoder resnet18")])
def test_a_captioner_of_other_grids_is_refused(weights, tmp_path, changes, message):
    run = _captioning_run(tmp_path, weights, **changes)
    with pytest.raises(ValueError, match=message):
        Speaker(run, "mobilenet_v2" if changes else "resnet18", torch.device("cpu"))
