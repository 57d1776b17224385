"""Int8 graphs: the decoder's weights, and the encoder's weights and activations, calibrated on photos."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def quantize_decoder(source: Path, target: Path) -> None:
    """Weight matrices to int8 with a scale for each output, activations to uint8 on the fly; in the loop's body too.

    What is multiplied with a word's vector is multiplied beforehand: a row of the product for each word, in int8 with
    a scale for each row. Written by hand because onnxruntime's tool misses weights that a loop's body turns first.
    """
    import onnx

    model = onnx.load(source)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    bodies = [a.g for node in model.graph.node for a in node.attribute if node.op_type == "Loop" and a.name == "body"]
    graphs = [*bodies, model.graph]  # bodies first: writing a graph's nodes anew copies what is in them
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for graph in graphs for weight in graph.initializer}
    used: set[str] = set()
    for graph in graphs:
        nodes = _quantize_products(graph, weights)
        used |= {name for node in nodes for name in node.input} | {output.name for output in graph.output}
        nodes = [node for node in nodes if node.op_type != "Transpose" or node.output[0] in used]
        used |= {name for node in nodes for name in node.input}
        kept = [weight for weight in graph.initializer if weight.name in used]
        lists: list[tuple[Any, list[Any]]] = [(graph.node, nodes), (graph.initializer, kept)]
        for old, new in lists:
            copies = [type(item).FromString(item.SerializeToString()) for item in new]
            del old[:]
            old.extend(copies)
    onnx.save(model, target)


def _quantize_products(graph: Any, weights: Mapping[str, NDArray[Any]]) -> list[Any]:
    """A graph's nodes with the products with weight matrices replaced, and the bias that is added to them."""
    from onnx import TensorProto, helper, numpy_helper

    def add(name: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    made = {output: node for node in graph.node for output in node.output}
    added = {node.input[0]: node for node in graph.node if node.op_type == "Add" and _vector(node.input[1], weights)}
    nodes, dropped = [], set()
    for node in graph.node:
        out = node.output[0] if node.output else ""
        weight_KN = _weight(node, weights, made)
        if out in dropped:
            continue
        if weight_KN is None:
            nodes.append(node)
            continue
        bias_N = None
        if (sum_ := added.get(out)) is not None:
            bias_N, out = weights[sum_.input[1]], sum_.output[0]
            dropped.add(out)
        word = made.get(node.input[0])
        if word is not None and word.op_type == "Gather" and word.input[0] in weights:
            rows_VN, scale_V1 = _int8(weights[word.input[0]] @ weight_KN + (0 if bias_N is None else bias_N), axis=1)
            rows, scales = add(f"{out}_rows", rows_VN), add(f"{out}_scales", scale_V1)
            nodes += [
                helper.make_node("Gather", [rows, word.input[1]], [f"{out}_row"]),
                helper.make_node("Gather", [scales, word.input[1]], [f"{out}_scale"]),
                helper.make_node("Cast", [f"{out}_row"], [f"{out}_cast"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{out}_cast", f"{out}_scale"], [out]),
            ]
            continue
        matrix_KN, scale_1N = _int8(weight_KN, axis=0)
        inputs = [node.input[0], add(f"{out}_matrix", matrix_KN), add(f"{out}_scales", scale_1N[0]), ""]
        inputs += [] if bias_N is None else [add(f"{out}_bias", bias_N)]
        nodes.append(helper.make_node("DynamicQuantizeMatMul", inputs, [out], domain="com.microsoft"))
    return nodes


def _weight(node: Any, weights: Mapping[str, NDArray[Any]], made: Mapping[str, Any]) -> NDArray[Any] | None:
    """The [K, N] weight of a product with a matrix; products with vectors are not worth it."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    name, turned = node.input[1], any(a.name == "transB" and a.i for a in node.attribute)
    if (before := made.get(name)) is not None and before.op_type == "Transpose":
        name, turned = before.input[0], not turned
    weight = weights.get(name)
    if weight is None or weight.ndim != 2 or min(weight.shape) < 8 or len(node.input) > 2:
        return None
    return weight.T if turned else weight


def _vector(name: str, weights: Mapping[str, NDArray[Any]]) -> bool:
    return name in weights and weights[name].ndim == 1


def _int8(weight: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounded to [-127, 127] with one scale for each slice along `axis`, its largest value over 127."""
    scale = np.maximum(np.abs(weight).max(axis=axis, keepdims=True), 1e-12).astype(np.float32) / 127
    return np.rint(weight / scale).astype(np.int8), scale


def quantize_encoder(source: Path, target: Path, photos: Sequence[NDArray[np.uint8]]) -> None:
    """Convolutions and what joins them to int8, with ranges seen on photos uint8 [H, W, 3] of the encoder's size."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not photos:
        raise ValueError("calibration needs at least one photo, got none")
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(target), _reader(photos), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Clip", "Relu", "Add", "MatMul", "Gemm"],
            extra_options={"CalibMovingAverage": True},
        )  # fmt: skip


def _reader(photos: Sequence[NDArray[np.uint8]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(photos)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            photo = next(self.rest, None)
            return None if photo is None else {"pixels": photo[None]}

    return Photos()


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice to the root logger at each call; it is not the caller's business."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
