"""The rule of parameters that are copied along the samples: z holds w again and again, one copy or more a sample.

Instance normalization and tokens that are put before a sequence do this. A sample's Jacobian row is the cotangent of
its copies, summed.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import WHOLE, Edges, Layout, Parameters, cut, leaf, saved

__all__ = ["RECOGNISERS", "CopiesUse"]


@dataclass(frozen=True, eq=False)
class CopiesUse:
    """Copies laid end to end along the leading dimension.

    Attributes:
        edge: The copies z, of shape (copies · size, ...).
        parameter: The parameter w, of shape (size, ...), or (...) where the size is 1.
        copies: How many.
        size: Of one, along the leading dimension.
    """

    edge: GradientEdge
    parameter: Tensor
    copies: int
    size: int
    handled: tuple[int, ...] = (0,)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.parameter,)

    def layouts(self, samples: int) -> Sequence[Layout]:
        return () if self.copies % samples else (Layout(samples, self.copies // samples * self.size),)

    def without(self, parameters: Container[Tensor]) -> "CopiesUse | None":
        return None if self.parameter in parameters else self

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        g = layout.split(cotangent)  # (o, n, copies of a sample · size, ...)
        summed = torch.unflatten(g, 2, (-1, self.size)).sum(2)
        return cut(summed.reshape(*g.shape[:2], *parameter.shape), part)


def _repeated(node: Node, edges: Edges, parameters: Parameters) -> CopiesUse | None:
    """Recognises ``w.repeat(copies, 1, …)``."""
    parameter, repeats = leaf(edges[0], parameters), saved(node, "repeats")
    if parameter is None or not repeats or math.prod(repeats[1:]) != 1:
        return None
    copies, *others = repeats
    size = parameter.shape[0] if parameter.dim() > len(others) else 1
    return CopiesUse(GradientEdge(node, 0), parameter, copies, size)


RECOGNISERS = {"RepeatBackward0": _repeated}
