"""Residual networks for small images: 6n + 2 layers in three stages of n blocks, after He et al. (arXiv 1512.03385).

Three kinds, by what keeps the signal in bounds. BatchNorm is that of the original, and makes samples meet, so that a
per-sample output does not exist. GroupNorm (Wu and He, arXiv 1803.08494) normalizes each sample by itself. Fixup
(Zhang, Dauphin and Ma, arXiv 1901.09321) has no normalization: weights start small by a rule, every residual branch
starts at zero, and scalar biases and scales are trained beside the convolutions.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["GROUPS", "resnet"]

GROUPS = 8  # of GroupNorm

Norm = Callable[[int], nn.Module]


def resnet(
    kind: str, channels: int, width: int, depth: int, outputs: int, seed: int, zero_head: bool = True
) -> nn.Module:
    """A residual network; its weights depend on ``seed`` alone, and the global random state is left as it was.

    Args:
        kind: "fixup", "batchnorm" or "groupnorm".
        channels: Of an image: 1 or 3.
        width: Channels of the first stage; the second has twice, the third four times as many. 16 is the original's.
        depth: Layers, 6n + 2.
        outputs: Values a sample.
        seed: Of the weights.
        zero_head: Whether the last layer of "fixup" starts at zero, as its authors have it.
    """
    blocks = (depth - 2) // 6  # a stage
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "fixup":
            return FixupResNet(channels, width, blocks, outputs, zero_head)
        norm = nn.BatchNorm2d if kind == "batchnorm" else _group_norm
        return NormalizedResNet(channels, width, blocks, outputs, norm)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, channels)


def _stages(width: int, blocks: int) -> list[tuple[int, int, int]]:
    """Channels in, channels out and stride of every block."""
    widths = [width] * blocks + [2 * width] * blocks + [4 * width] * blocks
    return [(before, after, after // before) for before, after in pairwise([width, *widths])]


def _convolution(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """3 × 3, without a bias, in He's initialization by fan-in: it keeps the mean square through a ReLU."""
    convolution = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution


def _shortcut(x: Tensor, channels: int, stride: int) -> Tensor:
    """Every ``stride``-th row and column of ``x`` (b, c, h, w), then channels of zeros (He et al., option A)."""
    return nn.functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, channels - x.shape[1]))


class NormalizedBlock(nn.Module):
    """ReLU(shortcut(x) + norm₂(conv₂(ReLU(norm₁(conv₁(x)))))."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Norm):
        super().__init__()
        self.conv1, self.norm1 = _convolution(channels_in, channels, stride), norm(channels)
        self.conv2, self.norm2 = _convolution(channels, channels), norm(channels)
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        output: Tensor = (h + _shortcut(x, self.channels, self.stride)).relu()
        return output


class NormalizedResNet(nn.Module):
    """Every convolution is followed by ``norm``."""

    def __init__(self, channels: int, width: int, blocks: int, outputs: int, norm: Norm):
        super().__init__()
        self.conv, self.norm = _convolution(channels, width), norm(width)
        self.blocks = nn.Sequential(*(NormalizedBlock(*shape, norm) for shape in _stages(width, blocks)))
        self.head = nn.Linear(4 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.norm(self.conv(x)).relu())
        output: Tensor = self.head(h.mean((2, 3)))
        return output


class Bias(nn.Module):
    """x + b, with one number b for all channels and places."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Scale(nn.Module):
    """a · x, with one number a for all channels and places."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class FixupBlock(nn.Module):
    """ReLU(shortcut(x) + a · conv₂(ReLU(conv₁(x + b₁) + b₂) + b₃) + b₄), with conv₂ = 0 at first.

    Args:
        channels_in: Channels of its input.
        channels: Channels of its output.
        stride: Of the first convolution.
        branches: Residual branches L in the whole network: conv₁ starts at L^(−1/2) times its usual weights.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, branches: int):
        super().__init__()
        self.conv1, self.conv2 = _convolution(channels_in, channels, stride), _convolution(channels, channels)
        self.bias1, self.bias2, self.bias3, self.bias4 = Bias(), Bias(), Bias(), Bias()
        self.scale = Scale()
        self.channels, self.stride = channels, stride
        with torch.no_grad():
            self.conv1.weight.mul_(1 / math.sqrt(branches))
            self.conv2.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = self.bias2(self.conv1(self.bias1(x))).relu()
        h = self.bias4(self.scale(self.conv2(self.bias3(h))))
        output: Tensor = (h + _shortcut(x, self.channels, self.stride)).relu()
        return output


class FixupResNet(nn.Module):
    """No normalization at all."""

    def __init__(self, channels: int, width: int, blocks: int, outputs: int, zero_head: bool):
        super().__init__()
        shapes = _stages(width, blocks)
        self.conv, self.bias = _convolution(channels, width), Bias()
        self.blocks = nn.Sequential(*(FixupBlock(*shape, len(shapes)) for shape in shapes))
        self.head_bias, self.head = Bias(), nn.Linear(4 * width, outputs)
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.bias(self.conv(x)).relu())
        output: Tensor = self.head(self.head_bias(h.mean((2, 3))))
        return output
