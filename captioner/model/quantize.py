"""Int8 graphs: weights and activations of decoders and encoders, calibrated on examples and photos."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY = 114
"""The byte that counts as 0 in an int8 encoder: near the mean of photos' pixels."""


def quantize_decoder(source: Path, target: Path, examples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Weight matrices to int8 with a scale for each output, activations to uint8; in a loop's body too.

    `examples` are inputs of the graph: from what they lead to each activation gets its scale, once and for all, so
    that a picture's result does not depend on what else is in its batch. What is multiplied with a word's vector is
    multiplied beforehand: a row of the product for each word, in int8 with a scale for each row. Written by hand
    because onnxruntime's tool misses weights that a loop's body turns first.
    """
    import onnx

    if not examples:
        raise ValueError("calibration needs at least one example, got none")
    model = onnx.load(source)
    ranges = _ranges(model, examples)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    # Bodies first: writing a graph's nodes anew copies what is in them.
    graphs = [*(body for _, body in _loops(model)), model.graph]
    weights = _weights(graphs)
    used: set[str] = set()
    for graph in graphs:
        nodes = _quantize_products(graph, weights, ranges)
        used |= {output.name for output in graph.output}
        taken = used | {name for node in nodes for name in node.input}
        nodes = [node for node in nodes if node.op_type != "Transpose" or node.output[0] in taken]
        used |= {name for node in nodes for name in node.input}
        kept = [weight for weight in graph.initializer if weight.name in used]
        lists: list[tuple[Any, list[Any]]] = [(graph.node, nodes), (graph.initializer, kept)]
        for old, new in lists:
            copies = [type(item).FromString(item.SerializeToString()) for item in new]
            del old[:]
            old.extend(copies)
    onnx.save(model, target)


def _quantize_products(
    graph: Any, weights: Mapping[str, NDArray[Any]], ranges: Mapping[str, tuple[float, float]]
) -> list[Any]:
    """A graph's nodes with the products with weight matrices replaced, and the bias that is added to them."""
    from onnx import TensorProto, helper, numpy_helper

    def add(name: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    made = {output: node for node in graph.node for output in node.output}
    added = {node.input[0]: node for node in graph.node if node.op_type == "Add" and _vector(node.input[1], weights)}
    nodes: list[Any] = []
    dropped: set[str] = set()
    activations: dict[str, list[str]] = {}
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
        if (word := _word(node, weights, made)) is not None:
            rows_VN, scale_V1 = _int8(weights[word.input[0]] @ weight_KN + (0 if bias_N is None else bias_N), axis=1)
            rows, scales = add(f"{out}_rows", rows_VN), add(f"{out}_scales", scale_V1)
            nodes += [
                helper.make_node("Gather", [rows, word.input[1]], [f"{out}_row"]),
                helper.make_node("Gather", [scales, word.input[1]], [f"{out}_scale"]),
                helper.make_node("Cast", [f"{out}_row"], [f"{out}_cast"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{out}_cast", f"{out}_scale"], [out]),
            ]
            continue
        name = node.input[0]
        matrix_KN, scale_1N = _int8(weight_KN, axis=0)
        matrix, scales = add(f"{out}_matrix", matrix_KN), add(f"{out}_scales", scale_1N[0])
        bias = [] if bias_N is None else [add(f"{out}_bias", bias_N)]
        if name not in activations:
            scale, zero = _uint8(*ranges[name])
            fixed = [
                add(f"{out}_in_scale", np.array(scale, np.float32)),
                add(f"{out}_in_zero", np.array(zero, np.uint8)),
            ]
            activations[name] = [f"{out}_in", *fixed]
            nodes.append(helper.make_node("QuantizeLinear", [name, *fixed], [f"{out}_in"]))
        activation, scale_name, zero_name = activations[name]
        inputs = [activation, matrix, scale_name, scales, zero_name, "", *bias]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [out], domain="com.microsoft"))
    return nodes


def _ranges(model: Any, examples: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, tuple[float, float]]:
    """For each activation that a weight matrix multiplies, the range that serves its values in the examples best.

    A loop's body tells its activations as scan outputs: one more output of the loop for each.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    model = type(model).FromString(model.SerializeToString())
    weights = _weights([*(body for _, body in _loops(model)), model.graph])
    told: dict[str, str] = {}
    for loop, graph in [*_loops(model), (None, model.graph)]:
        made = {output: node for node in graph.node for output in node.output}
        products = [node for node in graph.node if _weight(node, weights, made) is not None]
        for name in dict.fromkeys(node.input[0] for node in products if _word(node, weights, made) is None):
            graph.node.append(helper.make_node("Identity", [name], [f"{name}_seen"]))
            graph.output.append(helper.make_tensor_value_info(f"{name}_seen", TensorProto.FLOAT, None))
            told[name] = f"{name}_seen"
            if loop is not None:
                told[name] = f"{name}_in_each_step"
                loop.output.append(told[name])
                model.graph.output.append(helper.make_tensor_value_info(told[name], TensorProto.FLOAT, None))
    if not told:
        return {}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [session.run(list(told.values()), dict(example)) for example in examples]
    return {
        name: _best_range(np.concatenate([values.ravel() for values in seen]))
        for name, seen in zip(told, zip(*runs, strict=True), strict=True)
    }


def _best_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """The range with 0 in it whose 256 levels leave the least squared error; the rarest values may lie outside."""
    if not values.size:
        raise ValueError(
            "calibration needs examples that reach every product with a weight matrix, got 0 values of one"
        )
    counts, edges = np.histogram(values, bins=4096)
    middles = (edges[1:] + edges[:-1]) / 2
    low, high = min(edges[0], 0.0), max(edges[-1], 0.0)

    def error(ends: tuple[float, float]) -> float:
        scale, zero = _uint8(*ends)
        rounded = (np.clip(np.rint(middles / scale) + zero, 0, 255) - zero) * scale
        return float(counts @ (rounded - middles) ** 2)

    shares = np.linspace(0.1, 1, 46)
    return min(((float(low * a), float(high * b)) for a in shares for b in shares), key=error)


def _uint8(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point that spread 0 to 255 over a range with 0 in it."""
    scale = max(high - low, 1e-12) / 255
    return scale, round(-low / scale)


def _loops(model: Any) -> list[tuple[Any, Any]]:
    """The loops of the main graph, each with its body."""
    return [
        (node, a.g) for node in model.graph.node for a in node.attribute if node.op_type == "Loop" and a.name == "body"
    ]


def _weights(graphs: Sequence[Any]) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    return {weight.name: numpy_helper.to_array(weight) for graph in graphs for weight in graph.initializer}


def _word(node: Any, weights: Mapping[str, NDArray[Any]], made: Mapping[str, Any]) -> Any | None:
    """The node that looks up the word's vector which a product takes, if it takes one."""
    before = made.get(node.input[0])
    return before if before is not None and before.op_type == "Gather" and before.input[0] in weights else None


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
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not photos:
        raise ValueError("calibration needs at least one photo, got none")
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        centred = _fold_normalisation(model)
        onnx.save(model, prepared)
        quantize_static(
            str(prepared), str(target), _reader(photos), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Clip", "Relu", "Add", "MatMul", "Gemm"],
            extra_options={"CalibMovingAverage": True, "TensorQuantOverrides": centred},
        )  # fmt: skip
        if centred:
            model = onnx.load(target)
            _take_bytes(model, *centred)
            onnx.save(model, target)


def _fold_normalisation(model: Any) -> dict[str, Any]:
    """Turn conv((x - mean) / std) into conv'(x - GREY), so that the bytes of a photo are int8 activations as they are.

    Returns the centred tensor's scale and zero point by its name, {} if the graph does not begin with such a
    convolution. The padding is then GREY and no longer each channel's mean, a difference of some levels of 255.
    """
    from onnx import helper, numpy_helper

    nodes = model.graph.node
    weights = {weight.name: weight for weight in model.graph.initializer}
    norm = next((node for node in nodes if node.op_type == "BatchNormalization"), None)
    takers = [node for node in nodes if norm is not None and norm.output[0] in node.input]
    if norm is None or [node.op_type for node in takers] != ["Conv"] or not {*norm.input[1:]} <= weights.keys():
        return {}
    conv = takers[0]
    before = next((node for node in nodes if norm.input[0] in node.output), None)
    if before is None or before.op_type != "Cast" or conv.input[1] not in weights or len(conv.input) < 3:
        return {}
    scale_3, shift_3, mean_3, variance_3 = (numpy_helper.to_array(weights[name]) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    factor_3 = scale_3 / np.sqrt(variance_3 + epsilon)
    kernel, bias = (numpy_helper.to_array(weights[name]) for name in conv.input[1:3])
    folded = kernel * factor_3[:, None, None]
    bias = bias + (kernel.sum(axis=(2, 3)) * (shift_3 + (GREY - mean_3) * factor_3)).sum(axis=1)
    for name, value in zip(conv.input[1:3], (folded, bias), strict=True):
        weights[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(GREY, np.float32), "grey"))
    for name in norm.input[1:]:
        model.graph.initializer.remove(weights[name])
    norm.CopyFrom(helper.make_node("Sub", [norm.input[0], "grey"], [norm.output[0]]))
    return {norm.output[0]: [{"scale": np.array(1, np.float32), "zero_point": np.array(GREY, np.uint8)}]}


def _take_bytes(model: Any, centred: str) -> None:
    """Drop what makes of bytes floats and of the floats the same bytes again."""
    nodes = model.graph.node
    made = {output: node for node in nodes for output in node.output}
    subtraction = made[centred]
    cast = made[subtraction.input[0]]
    quantized = next(node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == centred)
    for node in nodes:
        for n, name in enumerate(node.input):
            if name == quantized.output[0]:
                node.input[n] = cast.input[0]
    for node in (quantized, subtraction, cast):
        nodes.remove(node)
    model.graph.initializer.remove(next(weight for weight in model.graph.initializer if weight.name == "grey"))


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
