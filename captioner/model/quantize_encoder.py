"""Int8 encoders: convolutions and what joins them, calibrated on photos whose bytes go in as they are."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY = 114
"""The byte that counts as 0 in an int8 encoder: near the mean of photos' pixels."""


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
