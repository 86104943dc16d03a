"""The rule of group normalization: z = w ⊙ x̂ + c by channel, with x̂ the input normalized within each sample's groups.

A sample's Jacobian row is Σ g ⊙ x̂ for w and Σ g for c, summed over positions. The kernel of the backward pass computes
just that, without forming x̂, when the samples are folded into the channels: one sample with R·c channels in R times the
groups, whose weight gradient has one entry a row and a channel.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import WHOLE, Edges, Layout, Parameters, cut, leaf, output_shape, saved

__all__ = ["RECOGNISERS", "GroupNormUse"]


@dataclass(frozen=True, eq=False)
class GroupNormUse:
    """One group normalization of an input (R, c, …).

    Attributes:
        node: Holds the input, its means and its inverse deviations.
        weight: Of shape (c,), if trainable.
        bias: Of shape (c,), if trainable.
        handled: Positions of both among the node's inputs.
    """

    node: Node
    weight: Tensor | None
    bias: Tensor | None
    handled: tuple[int, ...]

    @property
    def edge(self) -> GradientEdge:
        return GradientEdge(self.node, 0)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(p for p in (self.weight, self.bias) if p is not None)

    def layouts(self, samples: int) -> Sequence[Layout]:
        return Layout.along(0, output_shape(self.node)[0], samples)

    def without(self, parameters: Container[Tensor]) -> "GroupNormUse | None":
        left = replace(
            self,
            weight=None if self.weight in parameters else self.weight,
            bias=None if self.bias in parameters else self.bias,
        )
        return left if left.parameters else None

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        if parameter is self.bias:
            by_row = cotangent.flatten(3).sum(3)  # (o, R, c)
        else:
            by_row = torch.stack([self._weight_gradients(g) for g in cotangent])
        return cut(layout.split(by_row).sum(2), part)  # (o, n, T, c) -> (o, n, c)

    def _weight_gradients(self, cotangent: Tensor) -> Tensor:
        """Each row's own gradient of the weight, (R, c), for a cotangent (R, c, …)."""
        x, mean, rstd = (saved(self.node, name).to(cotangent.dtype) for name in ("input", "result1", "result2"))
        rows, channels = x.shape[:2]
        gradients: Tensor = torch.ops.aten.native_group_norm_backward(
            cotangent.contiguous().view(1, rows * channels, -1),
            x.contiguous().view(1, rows * channels, -1),
            mean.reshape(1, -1),
            rstd.reshape(1, -1),
            x.new_empty(rows * channels),  # the weight: its values do not count
            1,
            rows * channels,
            x[0, 0].numel(),
            mean.numel(),
            [False, True, False],
        )[1]
        return gradients.view(rows, channels)


def _group_norm(node: Node, edges: Edges, parameters: Parameters) -> GroupNormUse | None:
    weight, bias = leaf(edges[1][0], parameters), leaf(edges[2][0], parameters)
    if weight is None and bias is None:
        return None
    handled = ((1,) if weight is not None else ()) + ((2,) if bias is not None else ())
    return GroupNormUse(node, weight, bias, handled)


RECOGNISERS = {"NativeGroupNormBackward0": _group_norm}
