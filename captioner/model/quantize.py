"""Int8 graphs of what speaks about a grid: weights and activations, calibrated on examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST = 8
"""A matrix with fewer rows or columns is not worth it."""


def quantize_decoder(source: Path, target: Path, examples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Weight matrices to int8 with a scale for each output, activations to uint8; in a loop's body too.

    `examples` are inputs of the graph: from what they lead to each activation gets its scale, once and for all, so
    that a picture's result does not depend on what else is in its batch. What is multiplied with a word's vector is
    multiplied beforehand: a row of the product for each word, in int8 with a scale for each row, as the word vectors
    themselves. An LSTM's weights are int8 in the file alone: what its own int8 kernels say of a text depends on the
    other texts of its batch. Written by hand because onnxruntime's tool misses weights that a loop's body turns first.
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
        nodes = _Rewriting(graph, weights, ranges).nodes
        used |= {output.name for output in graph.output}
        taken = used | {name for node in nodes for name in node.input}
        spare = "Transpose", "GatherBlockQuantized"  # what only products took that are rows of a table or int8 now
        nodes = [node for node in nodes if node.op_type not in spare or node.output[0] in taken]
        used |= {name for node in nodes for name in node.input}
        kept = [weight for weight in graph.initializer if weight.name in used]
        lists: list[tuple[Any, list[Any]]] = [(graph.node, nodes), (graph.initializer, kept)]
        for old, new in lists:
            copies = [type(item).FromString(item.SerializeToString()) for item in new]
            del old[:]
            old.extend(copies)
    onnx.save(model, target)


class _Rewriting:
    """A graph's nodes with the products with weight matrices replaced, and the bias that is added to them."""

    def __init__(self, graph: Any, weights: Mapping[str, NDArray[Any]], ranges: Mapping[str, tuple[float, float]]):
        self.graph, self.weights, self.ranges = graph, weights, ranges
        self.made = {output: node for node in graph.node for output in node.output}
        self.names: set[str] = set()
        self.activations: dict[str, list[str]] = {}
        """Of each that is rounded: the name of what it becomes, of its scale and of its zero point."""
        self.nodes: list[Any] = []
        sums = (node for node in graph.node if node.op_type == "Add" and _vector(node.input[1], weights))
        added = {node.input[0]: node for node in sums}
        stored = _lstm_weights(graph, weights, self.made)
        dropped: set[str] = set()
        for node in graph.node:
            weight_KN = _weight(node, weights, self.made)
            if node.output and node.output[0] in dropped:
                continue
            if _looks_up(node, weights):
                self._look_up(node.input[0], weights[node.input[0]], node.input[1], node.output[0])
            elif weight_KN is None:
                for n, name in enumerate(node.input):
                    if name in stored:
                        node.input[n] = self._multiplied_out(name)
                self.nodes.append(node)
            else:
                bias, out = node.input[2] if len(node.input) > 2 else None, node.output[0]
                if bias is None and out in added:
                    bias, out = added[out].input[1], added[out].output[0]
                    dropped.add(out)
                self._product(node.input[0], weight_KN, None if bias is None else weights[bias], out)

    def _product(self, name: str, weight_KN: NDArray[Any], bias_N: NDArray[Any] | None, out: str) -> None:
        from onnx import helper

        if (word := self.made.get(name)) is not None and _looks_up(word, self.weights):
            table_VN = self.weights[word.input[0]] @ weight_KN + (0 if bias_N is None else bias_N)
            self._look_up(out, table_VN, word.input[1], out)
            return
        matrix_KN, scale_1N = _int8(weight_KN, axis=0)
        matrix, scales = self._add(f"{out}_matrix", matrix_KN), self._add(f"{out}_scales", scale_1N[0])
        bias = [] if bias_N is None else [self._add(f"{out}_bias", bias_N)]
        if name not in self.activations:
            scale, zero = _uint8(*self.ranges[name])
            fixed = [
                self._add(f"{out}_in_scale", np.array(scale, np.float32)),
                self._add(f"{out}_in_zero", np.array(zero, np.uint8)),
            ]
            self.activations[name] = [f"{out}_in", *fixed]
            self.nodes.append(helper.make_node("QuantizeLinear", [name, *fixed], [f"{out}_in"]))
        activation, scale_name, zero_name = self.activations[name]
        inputs = [activation, matrix, scale_name, scales, zero_name, "", *bias]
        self.nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [out], domain="com.microsoft"))

    def _look_up(self, name: str, table_VN: NDArray[Any], words: str, out: str) -> None:
        """A table's rows for words; one block, whose size must be a power of 2, is here a whole row."""
        from onnx import helper

        rows_VN, scale_V1 = _int8(table_VN, axis=1)
        rows = self._add(f"{name}_rows", (rows_VN.astype(np.int16) + 128).astype(np.uint8))  # 128 is the operator's 0
        inputs = [rows, words, self._add(f"{name}_row_scales", scale_V1)]
        block = max(16, 1 << (table_VN.shape[1] - 1).bit_length())
        how = {"bits": 8, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        self.nodes.append(helper.make_node("GatherBlockQuantized", inputs, [out], domain="com.microsoft", **how))

    def _multiplied_out(self, name: str) -> str:
        """A matrix that is int8 in the file; onnxruntime multiplies it out when it loads the graph."""
        from onnx import TensorProto, helper

        matrix_GK, scale_G1 = _int8(self.weights[name], axis=1)
        cast, whole = f"{name}_cast", f"{name}_multiplied_out"
        matrix, scales = self._add(f"{name}_matrix", matrix_GK), self._add(f"{name}_scales", scale_G1)
        self.nodes.append(helper.make_node("Cast", [matrix], [cast], to=TensorProto.FLOAT))
        self.nodes.append(helper.make_node("Mul", [cast, scales], [whole]))
        return whole

    def _add(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self.names:
            self.names.add(name)
            self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name


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
        taken = dict.fromkeys(node.input[0] for node in products)
        for name in [x for x in taken if x not in made or not _looks_up(made[x], weights)]:
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


def _looks_up(node: Any, weights: Mapping[str, NDArray[Any]]) -> bool:
    """Whether it takes rows out of a table of weights: word vectors."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return node.op_type == "Gather" and axis == 0 and _matrix(node.input[0], weights)


def _lstm_weights(graph: Any, weights: Mapping[str, NDArray[Any]], made: Mapping[str, Any]) -> set[str]:
    """The matrices that LSTM nodes take, their gates perhaps put into another order before."""
    found = set()
    for node in graph.node:
        for name in node.input[1:3] if node.op_type == "LSTM" else ():
            while (before := made.get(name)) is not None and before.op_type in ("Unsqueeze", "Concat", "Split"):
                name = before.input[0]
            found |= {name} if _matrix(name, weights) else set()
    return found


def _weight(node: Any, weights: Mapping[str, NDArray[Any]], made: Mapping[str, Any]) -> NDArray[Any] | None:
    """The [K, N] weight of a product with a matrix; products with vectors are not worth it."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    name, turned = node.input[1], any(a.name == "transB" and a.i for a in node.attribute)
    if (before := made.get(name)) is not None and before.op_type == "Transpose":
        name, turned = before.input[0], not turned
    if not _matrix(name, weights) or (len(node.input) > 2 and not _vector(node.input[2], weights)):
        return None
    return weights[name].T if turned else weights[name]


def _matrix(name: str, weights: Mapping[str, NDArray[Any]]) -> bool:
    return name in weights and weights[name].ndim == 2 and min(weights[name].shape) >= SMALLEST


def _vector(name: str, weights: Mapping[str, NDArray[Any]]) -> bool:
    return name in weights and weights[name].ndim == 1


def _int8(weight: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounded to [-127, 127] with one scale for each slice along `axis`, its largest value over 127."""
    scale = np.maximum(np.abs(weight).max(axis=axis, keepdims=True), 1e-12).astype(np.float32) / 127
    return np.rint(weight / scale).astype(np.int8), scale
