"""Weights that are entries of a parameter, in another order or shape, perhaps times a number: no explicit rows.

Let w = c R θ, where R takes entries of θ, each once, so that R Rᵀ = 1. With J_w the rows of w, those of θ are

    J_θ     = c J_w R
    J_θ J_θᵀ = c² J_w J_wᵀ
    J_θᵀ v   = Rᵀ (c J_wᵀ v)

So θ has the block that w would have as a parameter, with cotangents times c, and what that gives is put back by w's
own backward pass, which multiplies by c Rᵀ. Where several w_k take different entries of θ, R_k R_lᵀ = 0, and their
shares add up. Layers in the NTK parametrization, w = θ / √d, are such, and the weights of ``einsum``, stacks of weights
taken apart, and networks whose weights are cut from one vector.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..backward import rows_pulled_back
from .base import RESHAPING, WHOLE, Block, Edge, Plan, SideBySide, from_front, is_leaf, saved, summed

__all__ = ["RelabelledBlock", "Relabelling", "apart", "relabelling"]


@dataclass(frozen=True)
class Relabelling:
    """How w is made of θ.

    Attributes:
        parameter: θ.
        scale: c.
        path: The outputs of nodes from θ to w; the last is w.
    """

    parameter: Tensor
    scale: float
    path: tuple[Edge, ...]

    def rows_put_back(self, rows: Tensor, part: slice) -> Tensor:
        """(o, n, *w.shape) -> (o, n, *θ.shape), the leading dimension of θ cut to ``part``."""
        (columns,) = rows_pulled_back(self.edge, [self.parameter], rows / self.scale, vectorise=True, part=part)
        return columns

    def taken(self, direction: Tensor) -> Tensor:
        """R u, for u of θ's shape: what multiplies by c Rᵀ is linear, and its own backward pass multiplies by c R."""
        node, number = self.path[-1]
        assert node is not None
        shape = tuple(node._input_metadata[number].shape)
        with torch.enable_grad():
            anywhere = direction.new_zeros(shape, requires_grad=True)
            (back,) = torch.autograd.grad(self.edge, self.parameter, anywhere, retain_graph=True, create_graph=True)
            (taken,) = torch.autograd.grad(back, anywhere, direction / self.scale)
        return taken

    @property
    def edge(self) -> GradientEdge:
        """Of w."""
        node, number = self.path[-1]
        assert node is not None
        return GradientEdge(node, number)


class RelabelledBlock(SideBySide[Block]):
    """The Jacobian of parameters of which layers use entries.

    Args:
        blocks: Of the weights w, with cotangents times c; of one dtype.
        labels: Of each w.
    """

    def __init__(self, blocks: Sequence[Block], labels: Mapping[Tensor, Relabelling]):
        super().__init__(blocks)
        self._labels = labels

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(dict.fromkeys(self._labels[w].parameter for block in self._blocks for w in block.parameters))

    def plans(self) -> list[Plan]:
        plans = [plan for block in self._blocks for plan in block.plans()]
        return [replace(plan, parameters=tuple(self._labels[w].parameter for w in plan.parameters)) for plan in plans]

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        parts = [(self._labels[w], part) for block in self._blocks for w, part in block.transposed(v)]
        edges, cotangents = [label.edge for label, _ in parts], [part / label.scale for label, part in parts]
        # One pass for all: what takes a stack apart is gone through once.
        back = torch.autograd.grad(edges, self.parameters, cotangents, retain_graph=True)
        return list(zip(self.parameters, back, strict=True))

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        for parameter, part in self.transposed(v):
            parameter.add_(part, alpha=alpha)

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        shares = [
            self._labels[w].rows_put_back(block.explicit_rows(w), part)
            for block in self._blocks
            for w in block.parameters
            if self._labels[w].parameter is parameter
        ]
        return summed(shares)

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        products = []
        for block in self._blocks:
            labels = {w: self._labels[w] for w in block.parameters}
            products.append(block.product({w: label.taken(direction[label.parameter]) for w, label in labels.items()}))
        return summed(products)


def relabelling(edge: GradientEdge) -> Relabelling | None:
    """How the tensor at an edge of the graph is made of a parameter, if it is so made."""
    scale, path = 1.0, []
    at: Edge = (edge.node, edge.output_nr)
    while (node := at[0]) is not None and not is_leaf(node):
        factor = FACTORS.get(node.name())
        inputs = [child for child in node.next_functions if child[0] is not None]
        number = None if factor is None else factor(node)
        if number is None or len(inputs) != 1:
            return None
        scale *= number
        path.append(at)
        (at,) = inputs
    if node is None or not 0 < abs(scale) < math.inf:
        return None
    return Relabelling(node.variable, scale, tuple(reversed(path)))  # type: ignore[attr-defined]


def apart(labels: Iterable[Relabelling]) -> bool:
    """Whether relabellings of one parameter certainly take different entries of it, any two of them."""
    return all(_apart(a.path, b.path) for a, b in combinations(labels, 2))


def _apart(one: Sequence[Edge], other: Sequence[Edge]) -> bool:
    for (node, number), (another, another_number) in zip(one, other, strict=False):
        assert node is not None
        assert another is not None
        if node == another and number == another_number:
            continue  # so far they are the same
        if node == another:
            return True  # two outputs of one node that takes a tensor apart
        return _meet_nowhere(node, another)
    return False


def _meet_nowhere(node: Node, other: Node) -> bool:
    """Whether two nodes take different entries of one tensor, along one dimension."""
    cuts = TAKING.get(node.name()), TAKING.get(other.name())
    if cuts[0] is None or cuts[1] is None:
        return False
    (axis, first), (other_axis, second) = cuts[0](node), cuts[1](other)
    return axis == other_axis and (first.stop <= second.start or second.stop <= first.start)


def _selected(node: Node) -> tuple[int, range]:
    sizes = saved(node, "self_sym_sizes")
    axis = from_front(saved(node, "dim"), len(sizes))
    index = from_front(saved(node, "index"), sizes[axis])
    return axis, range(index, index + 1)


def _sliced(node: Node) -> tuple[int, range]:
    sizes = saved(node, "self_sym_sizes")
    axis = from_front(saved(node, "dim"), len(sizes))
    start, end = (from_front(saved(node, name), sizes[axis]) for name in ("start", "end"))
    return axis, range(start, end)


def _one(node: Node) -> float:
    return 1.0


def _multiplied(node: Node) -> float | None:
    (left, _), _ = node.next_functions
    return _number(saved(node, "self" if left is None else "other"))


def _divided(node: Node) -> float | None:
    (dividend, _), (divisor, _) = node.next_functions
    if dividend is None or divisor is not None:  # a number divided by a parameter
        return None
    number = _number(saved(node, "other"))
    return 1 / number if number else None


def _number(factor: Tensor | None) -> float | None:
    """A number, which torch stores as a tensor; one on a GPU is not waited for."""
    if factor is None or factor.dim() or factor.device.type != "cpu" or factor.is_complex():
        return None
    number: Any = factor.tolist()  # float(factor) fails where a dispatch mode is on, which is handed a plain number
    return float(number)


# What takes a part of a tensor, in one piece along one dimension -> that.
TAKING: dict[str, Callable[[Node], tuple[int, range]]] = {"SelectBackward0": _selected, "SliceBackward0": _sliced}

# What gives entries of its one input, each once, times a number -> that number.
FACTORS: dict[str, Callable[[Node], float | None]] = {
    **dict.fromkeys(RESHAPING, _one),
    **dict.fromkeys(TAKING, _one),
    "PermuteBackward0": _one,
    "TBackward0": _one,
    "TransposeBackward0": _one,
    "TransposeBackward1": _one,
    "CloneBackward0": _one,
    "UnbindBackward0": _one,
    "SplitBackward0": _one,
    "SplitWithSizesBackward0": _one,
    "NegBackward0": lambda node: -1.0,
    "MulBackward0": _multiplied,
    "DivBackward0": _divided,
}
