"""Int8 graphs: the decoder's weights, and the encoder's weights and activations, calibrated on photos."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def quantize_decoder(source: Path, target: Path) -> None:
    """Weights of all matrix products to int8, activations on the fly; the loop's body included."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # the quantiser transposes weights and then trips over their noted shapes
    with _quiet():
        quantize_dynamic(
            model, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": False},
        )  # fmt: skip


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
            calibrate_method=CalibrationMethod.MinMax, op_types_to_quantize=["Conv", "Add", "MatMul", "Gemm"],
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
