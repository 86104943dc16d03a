"""The rule of convolutions, of any dimension, stride, padding, dilation and groups, transposed or not.

A sample's Jacobian row is the weight gradient of that sample alone. The gradients of all samples come from one
convolution backward with the batch folded into the channels: (1, R·c, …) and R times the groups.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import WHOLE, Edges, Layout, Parameters, cut, leaf, output_shape, saved

__all__ = ["RECOGNISERS", "ConvolutionUse"]


@dataclass(frozen=True, eq=False)
class ConvolutionUse:
    """One convolution.

    Attributes:
        node: The convolution's node, which holds its input and settings.
        weight: If trainable.
        bias: If trainable.
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

    def without(self, parameters: Container[Tensor]) -> "ConvolutionUse | None":
        kept = replace(
            self,
            weight=None if self.weight in parameters else self.weight,
            bias=None if self.bias in parameters else self.bias,
        )
        return kept if kept.parameters else None

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        if parameter is self.bias:
            by_row = cotangent.flatten(3).sum(3)  # (o, R, c)
            return cut(layout.split(by_row).sum(2), part)  # (o, n, T, c) -> (o, n, c)
        gradients = [self._weight_gradients(parameter, g, part) for g in cotangent]
        by_row = gradients[0].unsqueeze(0) if len(gradients) == 1 else torch.stack(gradients)  # (o, R, *weight.shape)
        return layout.split(by_row).sum(2) if layout.positions > 1 else by_row

    def _weight_gradients(self, weight: Tensor, cotangent: Tensor, part: slice) -> Tensor:
        """Each row's own weight gradient, (R, *weight.shape) cut to ``part``, for a cotangent (R, c_out, …)."""
        node = self.node
        x: Tensor = saved(node, "input").to(cotangent.dtype)
        transposed, groups = saved(node, "transposed"), saved(node, "groups")
        if groups > 1 and part != WHOLE:  # which keeps weights small
            return self._weight_gradients(weight, cotangent, WHOLE)[:, part]
        # The leading dimension of the weight: its output channels, or its input channels if transposed.
        if transposed:
            x = x[:, part]
        else:
            cotangent = cotangent[:, part]
        rows, leading = x.shape[0], (x if transposed else cotangent).shape[1]
        gradients: Tensor = torch.ops.aten.convolution_backward(
            cotangent.reshape(1, -1, *cotangent.shape[2:]),
            x.reshape(1, -1, *x.shape[2:]),
            weight.new_empty(rows * leading, *weight.shape[1:]),  # its shape counts, its values do not
            None,
            saved(node, "stride"),
            saved(node, "padding"),
            saved(node, "dilation"),
            transposed,
            saved(node, "output_padding"),
            rows * groups,
            [False, True, False],
        )[1]
        return gradients.view(rows, leading, *weight.shape[1:])


def _convolution(node: Node, edges: Edges, parameters: Parameters) -> ConvolutionUse | None:
    weight, bias = leaf(edges[1][0], parameters), leaf(edges[2][0], parameters)
    if weight is None and bias is None:
        return None
    handled = ((1,) if weight is not None else ()) + ((2,) if bias is not None else ())
    return ConvolutionUse(node, weight, bias, handled)


RECOGNISERS = {"ConvolutionBackward0": _convolution}
