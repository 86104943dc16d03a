"""What layers with a weight and a bias by channel have in common: those whose input is (R, c, …), one row a sample."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import Edges, Layout, Parameters, leaf, output_shape, present

__all__ = ["WeightAndBias"]


@dataclass(frozen=True, eq=False)
class WeightAndBias:
    """One call of such a layer.

    Attributes:
        node: Holds what the forward pass left: the input, the layer's settings.
        weight: If trainable.
        bias: If trainable.
        handled: Positions of both among the node's inputs.
    """

    node: Node
    weight: Tensor | None
    bias: Tensor | None
    handled: tuple[int, ...]

    @classmethod
    def recognised(cls, node: Node, edges: Edges, parameters: Parameters) -> Self | None:
        """The call at this node, whose inputs are the layer's, its weight and its bias, if any of these is trained."""
        weight, bias = leaf(edges[1], parameters), leaf(edges[2], parameters)
        if weight is None and bias is None:
            return None
        handled = ((1,) if weight is not None else ()) + ((2,) if bias is not None else ())
        return cls(node, weight, bias, handled)

    @property
    def edge(self) -> GradientEdge:
        return GradientEdge(self.node, 0)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return present(self.weight, self.bias)

    def layouts(self, samples: int) -> Sequence[Layout]:
        return Layout.along(0, output_shape(self.node)[0], samples)

    def without(self, parameters: Container[Tensor]) -> Self | None:
        kept = replace(
            self,
            weight=None if self.weight in parameters else self.weight,
            bias=None if self.bias in parameters else self.bias,
        )
        return kept if kept.parameters else None
