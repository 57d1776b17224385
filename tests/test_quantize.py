"""Int8 weights: rounding on paper, small graphs against numpy, and what is left in fp32 in a real decoder."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from captioner.model.quantize import _int8, quantize_decoder, quantize_encoder

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


@pytest.mark.parametrize("turned", [False, True])
def test_a_product_with_a_matrix_and_its_bias(tmp_path, turned):
    nodes = [helper.make_node("MatMul", ["x", "m"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    if turned:  # as tied words are
        nodes.insert(0, helper.make_node("Transpose", ["w"], ["m"]))
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", E])]
    source = save(tmp_path / "a.onnx", nodes, given, b=BIAS, **({"w": MATRIX.T.copy()} if turned else {"m": MATRIX}))
    quantize_decoder(source, tmp_path / "b.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert kinds == ["DynamicQuantizeMatMul"]
    x = RANDOM.normal(size=(5, E)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x=x), x @ MATRIX + BIAS, atol=0.15)
    assert np.abs(run(tmp_path / "b.onnx", x=x) - x @ MATRIX - BIAS).mean() < 0.05


def test_the_product_with_a_word_is_a_row_of_a_table(tmp_path):
    nodes = [
        helper.make_node("Gather", ["t", "word"], ["x"]),
        helper.make_node("MatMul", ["x", "m"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    given = [helper.make_tensor_value_info("word", TensorProto.INT64, ["rows"])]
    source = save(tmp_path / "a.onnx", nodes, given, t=TABLE, m=MATRIX, b=BIAS)
    quantize_decoder(source, tmp_path / "b.onnx")
    words, whole = np.array([3, 0, 19, 3]), TABLE @ MATRIX + BIAS
    got = run(tmp_path / "b.onnx", word=words)
    largest = np.abs(whole[words]).max(axis=1, keepdims=True)
    assert (np.abs(got - whole[words]) <= largest / 254 + 1e-6).all()  # half a step of the row's scale


def test_products_with_vectors_stay(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "m"], ["y"])]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", E])]
    source = save(tmp_path / "a.onnx", nodes, given, m=MATRIX[:, :1].copy())
    quantize_decoder(source, tmp_path / "b.onnx")
    x = RANDOM.normal(size=(5, E)).astype(np.float32)
    np.testing.assert_array_equal(run(tmp_path / "b.onnx", x=x), run(source, x=x))


def test_a_decoder_keeps_no_matrix_in_fp32_but_its_word_vectors(tiny_bundle):
    graph = onnx.load(tiny_bundle / "captioner.int8.onnx").graph
    loop = next(node for node in graph.node if node.op_type == "Loop")
    body = next(a.g for a in loop.attribute if a.name == "body")
    for part in (graph, body):
        floats = [w for w in part.initializer if w.data_type == TensorProto.FLOAT and len(w.dims) == 2]
        large = {w.name for w in floats if min(w.dims) >= 8}
        users = {node.op_type for node in (*graph.node, *body.node) if large & set(node.input)}
        assert users <= {"Gather"}
    assert [node.op_type for node in body.node].count("DynamicQuantizeMatMul") == 4  # query, gates, output, words


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
