"""Int8 weights: rounding on paper, small graphs against numpy, and that nothing large is left in fp32 in real ones."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from captioner.engine import Session
from captioner.model.quantize import _best_range, _int8, _uint8, quantize_decoder
from captioner.model.quantize_encoder import quantize_encoder
from captioner.model.search import inputs as search_inputs
from captioner.vocabulary import PAD
from tests.conftest import tiny_photos

V, E, N = 20, 16, 12


def test_rounding_on_paper():
    rows, scale = _int8(np.array([[1.27, -0.634], [0.0, 2.54]], np.float32), axis=1)
    assert rows.tolist() == [[127, -63], [0, 127]]
    assert scale.tolist() == [[pytest.approx(0.01)], [pytest.approx(0.02)]]
    columns, _ = _int8(np.array([[1.27, -0.634], [0.0, 2.54]], np.float32), axis=0)
    assert columns.tolist() == [[127, -32], [0, 127]]


def test_a_slice_of_zeros_stays_zero():
    rows, scale = _int8(np.zeros((2, 3), np.float32), axis=1)
    assert not rows.any()
    assert np.isfinite(scale).all()


def test_an_activation_scale_on_paper():
    assert _uint8(0.0, 2.55) == (pytest.approx(0.01), 0)
    assert _uint8(-1.0, 1.55) == (pytest.approx(0.01), 100)
    scale, zero = _uint8(0.0, 0.0)
    assert scale > 0
    assert zero == 0


def test_a_range_has_zero_in_it_and_cuts_off_what_is_too_rare():
    assert _best_range(np.linspace(1, 2, 1000, dtype=np.float32)) == (0.0, pytest.approx(2.0, rel=0.03))
    low, high = _best_range(np.append(np.linspace(-1, 1, 1_000_000), 10).astype(np.float32))
    assert low == pytest.approx(-1, rel=0.03)
    assert 3 < high < 5  # cut at c costs (10 - c)^2 / 10^6 + ((1 + c) / 255)^2 / 12, the least near 4


def test_calibration_needs_values():
    with pytest.raises(ValueError, match="got 0 values"):
        _best_range(np.zeros(0, np.float32))


def run(path, **inputs):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def save(path, nodes, inputs, **weights):
    made = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])
    graph = helper.make_graph(nodes, "graph", inputs, [output], made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


RANDOM = np.random.default_rng(0)
TABLE, MATRIX, BIAS = (RANDOM.normal(size=size).astype(np.float32) for size in ((V, E), (E, N), (N,)))


@pytest.mark.parametrize("written", ["MatMul", "Transpose", "Gemm"])
def test_a_product_with_a_matrix_and_its_bias(tmp_path, written):
    nodes = [helper.make_node("MatMul", ["x", "m"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    if written == "Transpose":  # as tied words are
        nodes.insert(0, helper.make_node("Transpose", ["w"], ["m"]))
    elif written == "Gemm":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", E])]
    matrix = {"m": MATRIX} if written == "MatMul" else {"w": MATRIX.T.copy()}
    source = save(tmp_path / "a.onnx", nodes, given, b=BIAS, **matrix)
    x = RANDOM.normal(size=(5, E)).astype(np.float32)
    quantize_decoder(source, tmp_path / "b.onnx", [{"x": x}])
    kinds = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert kinds == ["QuantizeLinear", "MatMulIntegerToFloat"]
    assert all(
        w.data_type != TensorProto.FLOAT or len(w.dims) < 2 for w in onnx.load(tmp_path / "b.onnx").graph.initializer
    )
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x=x), x @ MATRIX + BIAS, atol=0.15)
    assert np.abs(run(tmp_path / "b.onnx", x=x) - x @ MATRIX - BIAS).mean() < 0.05


@pytest.mark.parametrize("bias", [False, True])
def test_with_examples_a_row_does_not_depend_on_the_others(tmp_path, bias):
    nodes = [helper.make_node("MatMul", ["x", "m"], ["p" if bias else "y"])]
    nodes += [helper.make_node("Add", ["p", "b"], ["y"])] if bias else []
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", E])]
    source = save(tmp_path / "a.onnx", nodes, given, m=MATRIX, **({"b": BIAS} if bias else {}))
    seen = RANDOM.normal(size=(100, E)).astype(np.float32)
    quantize_decoder(source, tmp_path / "b.onnx", [{"x": seen[:50]}, {"x": seen[50:]}])
    kinds = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert kinds == ["QuantizeLinear", "MatMulIntegerToFloat"]
    true, x = seen @ MATRIX + (BIAS if bias else 0), seen.copy()
    assert np.abs(run(tmp_path / "b.onnx", x=x) - true).mean() < 0.05
    alone = run(tmp_path / "b.onnx", x=x[:1])
    x[1:] *= 1000
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", x=x)[:1], alone)


def test_an_activation_that_several_matrices_multiply_is_rounded_once(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["p"]),
        helper.make_node("MatMul", ["x", "n"], ["q"]),
        helper.make_node("Sub", ["p", "q"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", E])]
    source = save(tmp_path / "a.onnx", nodes, given, m=MATRIX, n=2 * MATRIX)
    x = RANDOM.normal(size=(5, E)).astype(np.float32)
    quantize_decoder(source, tmp_path / "b.onnx", [{"x": x}])
    kinds = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert np.abs(run(tmp_path / "b.onnx", x=x) + x @ MATRIX).mean() < 0.1


def test_the_product_with_a_word_is_a_row_of_a_table(tmp_path):
    nodes = [
        helper.make_node("Gather", ["t", "word"], ["x"]),
        helper.make_node("MatMul", ["x", "m"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("word", TensorProto.INT64, ["rows"])]
    source = save(tmp_path / "a.onnx", nodes, given, t=TABLE, m=MATRIX, b=BIAS)
    quantize_decoder(source, tmp_path / "b.onnx", [{"word": np.array([1])}])
    words, whole = np.array([3, 0, 19, 3]), TABLE @ MATRIX + BIAS
    got = run(tmp_path / "b.onnx", word=words)
    largest = np.abs(whole[words]).max(axis=1, keepdims=True)
    assert (np.abs(got - whole[words]) <= largest / 254 + 1e-6).all()  # half a step of the row's scale


def test_word_vectors_are_rows_of_bytes(tmp_path):
    nodes = [helper.make_node("Gather", ["t", word], [word * 2]) for word in "ab"]
    nodes += [helper.make_node("Sub", ["aa", "bb"], ["y"])]
    given = [helper.make_tensor_value_info(word, TensorProto.INT64, ["rows"]) for word in "ab"]
    source = save(tmp_path / "a.onnx", nodes, given, t=TABLE)
    a, b = np.array([3, 0, 19]), np.array([1, 0, 5])
    quantize_decoder(source, tmp_path / "b.onnx", [{"a": a, "b": b}])
    kept = onnx.load(tmp_path / "b.onnx").graph.initializer
    assert sorted(list(weight.dims) for weight in kept) == [[V, 1], [V, E]]  # once for both
    largest = np.abs(TABLE[a]).max(axis=1, keepdims=True) + np.abs(TABLE[b]).max(axis=1, keepdims=True)
    apart = np.abs(run(tmp_path / "b.onnx", a=a, b=b) - (TABLE[a] - TABLE[b]))
    assert (apart <= largest / 254 + 1e-6).all()
    assert apart.any()


def test_an_lstm_has_int8_weights_and_reads_each_text_as_if_alone(tmp_path):
    hidden = 8
    random = np.random.default_rng(1)
    weights = {
        name: random.uniform(-1, 1, size).astype(np.float32)
        for name, size in (("w", (4 * hidden, E)), ("r", (4 * hidden, hidden)))
    }
    nodes = [
        helper.make_node("Unsqueeze", ["w", "first"], ["w1"]),
        helper.make_node("Unsqueeze", ["r", "first"], ["r1"]),
        helper.make_node("LSTM", ["x", "w1", "r1"], ["", "h"], hidden_size=hidden),
        helper.make_node("Squeeze", ["h", "first"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["words", "texts", E])]
    source = save(tmp_path / "a.onnx", nodes, given, **weights, first=np.array([0]))
    x = random.normal(size=(5, 4, E)).astype(np.float32)
    quantize_decoder(source, tmp_path / "b.onnx", [{"x": x}])
    kept = {weight.name: weight.data_type for weight in onnx.load(tmp_path / "b.onnx").graph.initializer}
    assert kept["w_matrix"] == kept["r_matrix"] == TensorProto.INT8
    assert kept.keys().isdisjoint(weights)
    true, got = run(source, x=x), run(tmp_path / "b.onnx", x=x)
    assert 0 < np.abs(got - true).max() < 0.02
    alone = run(tmp_path / "b.onnx", x=x[:, 1:2])
    x[:, 2:] *= 1000
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x=x)[1:2], alone, atol=1e-6)


def test_products_with_vectors_stay(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "m"], ["y"])]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", E])]
    source = save(tmp_path / "a.onnx", nodes, given, m=MATRIX[:, :1].copy())
    with pytest.raises(ValueError, match="needs at least one example, got none"):
        quantize_decoder(source, tmp_path / "b.onnx", [])
    quantize_decoder(source, tmp_path / "b.onnx", [{"x": np.zeros((1, E), np.float32)}])
    x = RANDOM.normal(size=(5, E)).astype(np.float32)
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", x=x), run(source, x=x))


def search_feed(grid_BPC, beams, wanted):
    names = ("first_scores", "steps", "length_power", "wanted")
    values = (value.numpy() for value in search_inputs(beams, 12, 0.7, wanted))
    return {"grid": grid_BPC, **dict(zip(names, values, strict=True))}


@pytest.fixture(scope="module")
def captioner(tiny_bundle, tmp_path_factory):
    """Where a calibrated int8 search lies, and the grids [8, P, C] that calibrated it."""
    target = tmp_path_factory.mktemp("int8") / "captioner.int8.onnx"
    grid_BPC = run(tiny_bundle / "encoder.int8.onnx", pixels=np.stack(tiny_photos()))
    quantize_decoder(tiny_bundle / "captioner.onnx", target, [search_feed(grid_BPC, 7, 1)])
    return target, grid_BPC


def matrices_in_fp32(*graphs):
    floats = [w for graph in graphs for w in graph.initializer if w.data_type == TensorProto.FLOAT]
    return [w.name for w in floats if len(w.dims) > 1 and min(w.dims) >= 8]


def test_a_decoder_keeps_no_matrix_in_fp32(captioner):
    graph = onnx.load(captioner[0]).graph
    loop = next(node for node in graph.node if node.op_type == "Loop")
    body = next(a.g for a in loop.attribute if a.name == "body")
    assert matrices_in_fp32(graph, body) == []
    kinds = [node.op_type for node in body.node]
    assert kinds.count("MatMulIntegerToFloat") == 4  # query, gates, output, words
    assert kinds.count("GatherBlockQuantized") == 2  # the word's share of the gates, and its vector
    assert [output.name for output in graph.output] == list(OUTPUTS)  # what calibration asked for is gone


def test_an_answerer_keeps_no_matrix_in_fp32(tiny_bundle_answers):
    graph = onnx.load(tiny_bundle_answers / "answerer.int8.onnx").graph
    assert matrices_in_fp32(graph) == []
    assert "LSTM" in {node.op_type for node in graph.node}


OUTPUTS = ("words", "word_log_probs", "log_probs", "scores", "attention")


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.sampled_from([1, 2, 5, 7]))
def test_an_int8_caption_does_not_depend_on_its_batch(captioner, pictures, beams):
    path, grid_BPC = captioner
    search = Session(path, threads=2)
    together = search.run(OUTPUTS, search_feed(grid_BPC[pictures], beams, beams))
    for n, picture in enumerate(pictures):
        alone = search.run(OUTPUTS, search_feed(grid_BPC[[picture]], beams, beams))
        np.testing.assert_array_equal(together[0][n], alone[0][0])
        for ours, theirs in zip(together[1:4], alone[1:4], strict=True):
            np.testing.assert_allclose(ours[n], theirs[0], atol=1e-5)
        said = alone[0][0] != PAD  # after a caption's end the maps go on while another picture's search does
        np.testing.assert_allclose(together[4][n][said], alone[4][0][said], atol=1e-5)


def test_an_int8_step_is_near_the_fp32_one(tiny_bundle, captioner):
    path, grid_BPC = captioner
    log_probs = []
    for graph in (tiny_bundle / "captioner.onnx", path):
        feed = search_feed(grid_BPC, 20, 1) | {"steps": np.arange(1)}
        words_BK1, each_BK1 = Session(graph).run(OUTPUTS[:2], feed)
        found_BV = np.full((len(grid_BPC), words_BK1.max() + 1), np.nan)
        np.put_along_axis(found_BV, words_BK1[..., 0], each_BK1[..., 0], axis=1)
        log_probs.append(found_BV)
    apart = np.abs(log_probs[0] - log_probs[1])
    assert 0 < np.nanmean(apart) < 0.05 * np.nanstd(log_probs[0])


def encoder_graph(path, normalised):
    """uint8 pixels [B, 8, 8, 3], normalised or only made floats, through one convolution and a ReLU."""
    weights = {"mean": [120.0, 110, 100], "variance": [60.0**2, 50**2, 40**2], "one": [1.0] * 3, "zero": [0.0] * 3}
    made = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in weights.items()]
    random = np.random.default_rng(3)
    made += [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in
             (("kernel", (16, 3, 3, 3)), ("bias", (16,)))]  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("BatchNormalization", ["floats", "one", "zero", "mean", "variance"], ["normal"], epsilon=0.0),
        helper.make_node("Conv", ["normal" if normalised else "floats", "kernel", "bias"], ["conv"], pads=[1] * 4),
        helper.make_node("Relu", ["conv"], ["y"]),
    ]
    if not normalised:
        del nodes[2], made[:4]
    given = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 8, 8, 3])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16, 8, 8])
    graph = helper.make_graph(nodes, "graph", given, [output], made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize("normalised", [True, False])
def test_an_int8_encoder_takes_the_bytes_of_a_photo_as_they_are(tmp_path, normalised):
    source = encoder_graph(tmp_path / "a.onnx", normalised)
    photos = list(np.random.default_rng(4).integers(0, 256, (20, 8, 8, 3), np.uint8))
    quantize_encoder(source, tmp_path / "b.onnx", photos)
    kinds = {node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node}
    assert kinds.isdisjoint({"BatchNormalization", "Sub"})
    assert ("Cast" in kinds) != normalised
    pixels = np.stack(photos)
    true, rounded = run(source, pixels=pixels), run(tmp_path / "b.onnx", pixels=pixels)
    apart = np.abs(true - rounded)
    assert apart[:, :, 1:-1, 1:-1].mean() / true.mean() < 0.02
    assert apart.mean() / true.mean() < 0.05  # the padding is grey and no longer each channel's mean
