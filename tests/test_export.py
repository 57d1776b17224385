"""The exported graphs say what torch says, a changed one is caught, and what cannot be exported is named.

Shapes: B pictures, K beams, T steps, P grid cells, C channels.
"""

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from captioner import Bundle, Captioner
from captioner.config import AnswererKind, ModelConfig, SearchOptions
from captioner.engine import Session
from captioner.model import export, graphs, parity
from captioner.model.decoder import Decoder
from captioner.model.network import Network
from captioner.model.quantize_encoder import quantize_encoder
from captioner.model.search import NEVER, BeamSearch, inputs
from captioner.vocabulary import END
from tests.conftest import TINY, TINY_ANSWERER, TINY_WORDS, WORDS, tiny_network, tiny_photos

CASES = [
    (batch, SearchOptions(k, steps, wanted, power))
    for batch, k, steps, wanted, power in (
        (1, 1, 20, 1, 0.0), (1, 3, 5, 3, 0.7), (1, 7, 1, 7, 0.0), (1, 20, 12, 2, 1.0),
        (8, 1, 9, 1, 0.7), (8, 3, 20, 3, 2.0), (8, 7, 20, 7, 0.0), (8, 20, 16, 1, 0.7),
    )
]  # fmt: skip


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_bundle_inject"])
def exported(request) -> SimpleNamespace:
    bundle = Bundle.open(request.getfixturevalue(request.param))
    network = Network.load(bundle.model, bundle.folder / "weights.safetensors", len(bundle.vocabulary))
    encoder, captioner = (Session(bundle.graph(kind, "fp32"), threads=1) for kind in ("encoder", "captioner"))
    return SimpleNamespace(bundle=bundle, network=network, encoder=encoder, captioner=captioner)


def after_the_grid(options: SearchOptions) -> tuple[torch.Tensor, ...]:
    return inputs(options.beam_size, options.max_words, options.length_power, options.captions)


def run_graph(session: Session, grid_BPC: torch.Tensor, options: SearchOptions, soft: bool) -> dict[str, np.ndarray]:
    given = (grid_BPC, *after_the_grid(options))
    feed = {name: x.numpy() for name, x in zip(graphs.SEARCH_INPUTS, given, strict=True)}
    outputs = graphs.SEARCH_OUTPUTS[: 5 if soft else 4]
    return dict(zip(outputs, session.run(outputs, feed), strict=True))


def assert_same(ours: dict[str, np.ndarray], found, options: SearchOptions) -> None:
    """Words equal, numbers within 1e-4, among the real ones of the wanted."""
    assert ours["words"].shape == (*found.log_probs_BK.shape, options.max_words)
    real_BK = found.log_probs_BK.numpy() > NEVER / 10
    real_BK[:, options.captions :] = False
    assert real_BK[:, 0].all()
    for (name, values), expected in zip(ours.items(), found, strict=False):
        tolerance = 0 if name == "words" else 1e-4
        np.testing.assert_allclose(values[real_BK], expected.numpy()[real_BK], atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize(("batch", "options"), CASES)
def test_graphs_equal_torch(exported, batch, options):
    soft = exported.bundle.model.attention == "soft"
    pixels_BHW3 = np.stack(tiny_photos(8))[:batch]
    with torch.inference_mode():
        grid_BPC = exported.network.encoder(torch.from_numpy(pixels_BHW3))
        found = exported.network.find(grid_BPC, options)
    (ours_BPC,) = exported.encoder.run(["grid"], {"pixels": pixels_BHW3})
    np.testing.assert_allclose(ours_BPC, grid_BPC, atol=1e-4 * max(1.0, float(grid_BPC.abs().max())))
    assert_same(run_graph(exported.captioner, grid_BPC, options, soft), found, options)


def test_without_attention_the_graph_has_no_maps(tiny_bundle, tiny_bundle_inject):
    for folder, count in ((tiny_bundle, 5), (tiny_bundle_inject, 4)):
        graph = onnx.load(folder / "captioner.onnx").graph
        assert [x.name for x in graph.input] == list(graphs.SEARCH_INPUTS)
        assert [x.name for x in graph.output] == list(graphs.SEARCH_OUTPUTS[:count])


def tamper(path, factor: float) -> None:
    """Scale the largest matrix of floats; a single weight may lie behind a ReLU that never opens."""
    model = onnx.load(path)
    floats = [x for x in model.graph.initializer if x.data_type == onnx.TensorProto.FLOAT]
    largest = max(floats, key=lambda x: np.prod(x.dims))
    values = numpy_helper.to_array(largest) * np.float32(factor)
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    onnx.save(model, path)


@pytest.mark.parametrize("graph", ["encoder.onnx", "captioner.onnx"])
def test_a_changed_matrix_is_caught(exported, monkeypatch, tmp_path, graph):
    monkeypatch.setattr(parity, "CASES", parity.CASES[-1:])  # many beams, so that many words count
    for name in (graphs.ENCODER, graphs.CAPTIONER):
        shutil.copy(exported.bundle.folder / name, tmp_path)
    for difference in parity.compare(exported.network, tmp_path, tiny_photos(2)):
        assert difference.same_words
        assert max(difference.grid, difference.scores, difference.attention) < 1e-4
    tamper(tmp_path / graph, 1.5)
    with pytest.raises(parity.ParityError, match="onnxruntime and torch differ by more than"):
        parity.compare(exported.network, tmp_path, tiny_photos(2))


@pytest.mark.parametrize("output", ["grid", "scores"])
def test_not_a_number_is_a_difference(exported, monkeypatch, output):
    run = Session.run

    def spoilt(session, outputs, feed):
        found = run(session, outputs, feed)
        return [x * np.nan if name == output else x for name, x in zip(outputs, found, strict=True)]

    monkeypatch.setattr(Session, "run", spoilt)
    with pytest.raises(parity.ParityError, match=f"{output}=nan"):
        parity.compare(exported.network, exported.bundle.folder, tiny_photos(1))


@pytest.mark.parametrize("fixture", ["tiny_bundle", "tiny_bundle_inject"])
def test_int8_graphs_give_sentences(request, fixture):
    folder = request.getfixturevalue(fixture)
    fp32, int8 = (Captioner.load(folder, precision=precision, threads=1) for precision in ("fp32", "int8"))
    pixels_BHW3 = np.stack(tiny_photos(4))
    grids = [captioner.encode(pixels_BHW3).ravel() for captioner in (fp32, int8)]
    assert grids[0] @ grids[1] / np.linalg.norm(grids[0]) / np.linalg.norm(grids[1]) > 0.95
    for captions in int8.search(int8.encode(pixels_BHW3), SearchOptions(7, 12, 3)):
        assert len(captions) == 3
        for caption in captions:
            assert set(caption.text.replace("'s", " 's").split()) <= set(WORDS)
            assert caption.log_prob == pytest.approx(caption.score)
            assert caption.log_prob < 0
    sizes = [(folder / name).stat().st_size for name in ("encoder.onnx", "encoder.int8.onnx")]
    assert sizes[1] < 0.4 * sizes[0]


def test_two_layers_and_a_first_state(tmp_path):
    """What the tiny bundles leave out, with weights so sharp that 16 grids get many different captions."""
    sizes = {"hidden_size": 12, "embed_size": 8, "feature_size": 8, "attention_size": 4, "layers": 2}
    config = ModelConfig(conditioning="initial_state", attention="soft", positions=True, tied_words=False, **sizes)
    torch.manual_seed(0)
    decoder = Decoder(config, (2, 3, 5), 12).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(6)
        decoder.position_PF.normal_()
        decoder.words.bias[END] = 1.0
    network = SimpleNamespace(config=config, grid=(2, 3, 5), search=BeamSearch(decoder, 12))
    graphs.write_captioner(network, tmp_path / "captioner.onnx")
    session, grid_BPC = Session(tmp_path / "captioner.onnx", threads=1), torch.randn(16, 6, 5)
    for options in (SearchOptions(1, 7), SearchOptions(5, 12, 5, 0.7)):
        with torch.inference_mode():
            found = network.search(grid_BPC, *after_the_grid(options))
        assert len({tuple(words) for words in found.words_BKT[:, 0].tolist()}) > 5
        assert_same(run_graph(session, grid_BPC, options, soft=True), found, options)


def test_nothing_is_sealed_where_graphs_differ(tmp_path, monkeypatch):
    def differ(*args):
        raise parity.ParityError("they differ")

    monkeypatch.setattr(export.graphs, "write_encoder", lambda *args: None)
    monkeypatch.setattr(export.graphs, "write_captioner", lambda *args: None)
    monkeypatch.setattr(export, "compare", differ)
    network = tiny_network(replace(TINY, encoder="squeezenet1_1"))
    with pytest.raises(parity.ParityError):
        export.write_bundle(network, TINY_WORDS, "mine", SearchOptions(), tiny_photos(), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_int8_bundle_has_all_three_graphs_and_says_what_was_measured(tmp_path, tiny_bundle_answers):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle_answers, bundle)
    export.keep_int8(bundle)
    left = {path.name for path in bundle.iterdir()}
    assert {name for name in left if name.endswith((".onnx", ".safetensors"))} == {
        "encoder.int8.onnx", "captioner.int8.onnx", "answerer.int8.onnx"
    }  # fmt: skip
    whole, opened = Bundle.open(tiny_bundle_answers), Bundle.open(bundle)
    assert opened.precisions == ("int8",)
    assert opened.scores == whole.scores
    assert opened.scores["torch_against_onnxruntime"]["answer_cases"] == len(parity.QUESTIONS)
    (photo,) = tiny_photos(1)
    small, large = (Captioner.load(folder, threads=1) for folder in (bundle, whole))
    assert small.caption(photo)[0].text == large.caption(photo)[0].text
    assert small.answer(photo, "what is red?").answers == large.answer(photo, "what is red?").answers


def test_photos_for_calibration(tmp_path):
    with pytest.raises(ValueError, match="holds no photo"):
        export.photos_in(tmp_path, TINY.preprocessing, 3)
    with pytest.raises(ValueError, match="calibration needs at least one photo"):
        quantize_encoder(tmp_path / "encoder.onnx", tmp_path / "encoder.int8.onnx", [])
    for n in range(9):
        Image.new("RGB", (80, 80), (n, n, n)).save(tmp_path / f"{n}.png")
    (tmp_path / "notes.txt").touch()
    photos = export.photos_in(tmp_path, TINY.preprocessing, 3)
    assert [photo.shape for photo in photos] == [(64, 64, 3)] * 3
    assert [int(photo[0, 0, 0]) for photo in photos] == [0, 3, 6]


@pytest.mark.parametrize(
    "settings",
    [{"kind": kind} for kind in get_args(AnswererKind)]
    + [{"kind": "attention", "history": True, "hops": 3}, {"kind": "attention", "whole": False}],
)
def test_every_answerer_equals_torch(settings, tmp_path):
    answerer = replace(TINY_ANSWERER, **settings)
    network = tiny_network(replace(TINY, captions=False, answerer=answerer))
    graphs.write_answerer(network, tmp_path / graphs.ANSWERER)
    differences = parity.compare_answers(network, tmp_path, tiny_photos(3))
    assert {(d.questions, d.words) for d in differences} == set(parity.QUESTIONS)
    assert all(d.probabilities <= 1e-5 and d.attention <= 1e-5 for d in differences)
    with torch.no_grad():
        for parameter in network.answerer.fuse.parameters():
            parameter += 0.05
    with pytest.raises(parity.ParityError, match="differ by more than 1e-05"):
        parity.compare_answers(network, tmp_path, tiny_photos(3))
