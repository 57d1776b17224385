"""Float weights from an int8 encoder's graph, to be taught further: a bundle is enough to go on from.

Each convolution of the graph has swallowed the batch norm after it. Here the convolution gets the size of a fresh one,
and the norm the statistics of some photos and the scale and shift that undo both.

Shapes: B pictures, H x W pixels, C channels, h x w grid cells.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from captioner.bundle import Bundle
from captioner.model.encoder import Encoder
from captioner.model.quantize_encoder import GREY


@torch.no_grad()
def restore(encoder: Encoder, folder: Path, photos_BHW3: Tensor) -> None:
    """Fill a compact encoder with the weights in a bundle's int8 graph; ValueError if they are another network's."""
    import onnx
    from onnx import numpy_helper

    bundle = Bundle.open(folder)
    path = bundle.graph("encoder", "int8")
    if bundle.model.encoder != encoder.name:
        raise ValueError(f"{path} holds weights of {bundle.model.encoder}, not of {encoder.name}")
    held = {weight.name: numpy_helper.to_array(weight) for weight in onnx.load(path).graph.initializer}

    def value(name: str, scale: str) -> Tensor:
        rounded = torch.tensor(held[f"{name}_quantized"], dtype=torch.float32)
        return rounded * torch.tensor(held[scale]).view(-1, *[1] * (rounded.dim() - 1))

    layers = [(name, m) for name, m in encoder.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = []
    for n, (name, layer) in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            continue
        bias_name = f"{name}.weight_bias" if layer.bias is None else f"{name}.bias"
        kernel = value(f"{name}.weight", f"{name}.weight_scale")
        bias_C = value(bias_name, f"{bias_name}_quantized_scale")
        if n == 0:  # in the graph it takes bytes less GREY
            bias_C = bias_C + (kernel.sum((2, 3)) * (encoder.mean_3 - GREY)).sum(1)
            kernel = kernel * encoder.std_3[:, None, None]
        if layer.bias is None:
            factor_C = layer.weight.std() / kernel.flatten(1).std(1)
            kernel = kernel * factor_C[:, None, None, None]
            hooks.append(layers[n + 1][1].register_forward_pre_hook(partial(_undo, factor_C, bias_C)))
        else:
            layer.bias.copy_(bias_C)
        layer.weight.copy_(kernel)
    encoder.eval().feature_map(photos_BHW3)
    for hook in hooks:
        hook.remove()


def _undo(factor_C: Tensor, bias_C: Tensor, norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
    """Let the norm make x / factor + bias of x."""
    variance_C, mean_C = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean_C)
    norm.running_var.copy_(variance_C)
    norm.weight.copy_((variance_C + norm.eps).sqrt() / factor_C)
    norm.bias.copy_(mean_C / factor_C + bias_C)
