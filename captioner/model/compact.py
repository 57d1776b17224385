"""Small CNNs for the CPU, to be distilled from a large one (training.distill): names such as residual_32.

Four stages whose grids are a 4th, 8th, 16th and 32nd of the picture, of W, 2W, 4W and 8W channels, where W is the
number in the name, and a 1 x 1 convolution to HEAD channels, as many as MobileNetV2's grid has. The blocks are

    residual    y = relu(x + conv3x3(relu(conv3x3(x))))                       (He et al., 2016, figure 2)
    depthwise   y = x + conv1x1(relu6(dw3x3(relu6(conv1x1(x)))))              (Sandler et al., 2018, expansion 4)

with a batch norm after each convolution; the first block of a stage halves the grid and has no plain x.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

HEAD = 1280
WIDTHS = (16, 24, 32, 40, 48, 64)
DEPTHS = {"residual": (2, 2, 2, 2), "depthwise": (2, 3, 5, 3)}
EXPANSION = 4
NAMES = tuple(f"{block}_{width}" for block in DEPTHS for width in WIDTHS)


def _convolution(channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return [convolution, nn.BatchNorm2d(out)]


class Residual(nn.Module):
    """[B, channels, h, w] to [B, out, h / stride, w / stride]."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        first, second = _convolution(channels, out, 3, stride), _convolution(out, out, 3)
        self.branch = nn.Sequential(*first, nn.ReLU(inplace=True), *second)
        plain = stride == 1 and channels == out
        self.shortcut = nn.Identity() if plain else nn.Sequential(*_convolution(channels, out, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return y


class Depthwise(nn.Module):
    """[B, channels, h, w] to [B, out, h / stride, w / stride]."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        wide = channels * EXPANSION
        widen, each = _convolution(channels, wide, 1), _convolution(wide, wide, 3, stride, groups=wide)
        self.branch = nn.Sequential(
            *widen, nn.ReLU6(inplace=True), *each, nn.ReLU6(inplace=True), *_convolution(wide, out, 1)
        )
        self.plain = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.plain else y


def build(name: str) -> nn.Module:
    """The network of a name in NAMES, with random weights; its children are the encoder's stages."""
    if name not in NAMES:
        raise ValueError(f"compact encoder must be one of {', '.join(NAMES)}, got {name!r}")
    kind, width = name.split("_")
    block: type[nn.Module] = Residual if kind == "residual" else Depthwise
    channels = [int(width) * 2**n for n in range(4)]
    network = nn.Sequential()
    network.add_module("stem", _stem(channels[0]))
    before: Sequence[int] = [channels[0], *channels]
    for n, depth in enumerate(DEPTHS[kind]):
        first = block(before[n], channels[n], 1 if n == 0 else 2)
        rest = [block(channels[n], channels[n], 1) for _ in range(depth - 1)]
        network.add_module(f"stage{n + 1}", nn.Sequential(first, *rest))
    network.add_module("head", nn.Conv2d(channels[-1], HEAD, 1))
    return network


def _stem(channels: int) -> nn.Sequential:
    """A quarter of the height and width."""
    half = [*_convolution(3, channels // 2, 3, 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*half, *_convolution(channels // 2, channels, 3, 2), nn.ReLU(inplace=True))
