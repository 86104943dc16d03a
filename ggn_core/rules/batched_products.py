"""The rule of batched products: z_b = a_b W_b + c_b with one matrix for each b, of ensembles, heads and experts.

With g_bt the cotangent of position t of a sample, its Jacobian rows are Σ_t a_bt ⊗ g_bt for W_b, and Σ_t g_bt for c_b
(further summed over what was broadcast). A product z_b = W_b a_b is the same with the dimensions of each matrix
exchanged.

For each b this is a linear layer: its matrices have the blocks of one.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..choice import Chooser
from . import elementwise, linear_blocks
from .base import (
    WHOLE,
    Edges,
    Layout,
    Parameters,
    Plan,
    Rows,
    SideBySide,
    layer_input,
    leaf,
    output_shape,
    saved,
    summed,
)
from .elementwise import ElementwiseUse

__all__ = ["RECOGNISERS", "BatchedProductUse"]


@dataclass(frozen=True, eq=False)
class BatchedProductUse:
    """One batched product.

    Attributes:
        edge: The product's output z, (B, R, p), or (B, p, R) if the weight is on the left.
        activation: The other factor, (B, R, d) or (B, d, R); None if the weight is not trainable.
        weight: The weight, (B, d, p) or (B, p, d), if it is a trainable parameter.
        on_left: Whether it is the left factor.
        shift: The use of what is added, if that is a trainable parameter.
        handled: Positions of both among the node's inputs.
    """

    edge: GradientEdge
    activation: Tensor | None
    weight: Tensor | None
    on_left: bool
    shift: ElementwiseUse | None
    handled: tuple[int, ...]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        of_shift = () if self.shift is None else self.shift.parameters
        return of_shift if self.weight is None else tuple(dict.fromkeys((self.weight, *of_shift)))

    def layouts(self, samples: int) -> Sequence[Layout]:
        by_shift = None if self.shift is None else self.shift.layouts(samples)
        if self.weight is None:
            return by_shift or ()
        axis = 2 if self.on_left else 1
        found = Layout.along(axis, output_shape(self.edge.node)[axis], samples)
        return found if by_shift is None else [layout for layout in found if layout in by_shift]

    def without(self, parameters: Container[Tensor]) -> "BatchedProductUse | None":
        kept = replace(
            self,
            weight=None if self.weight in parameters else self.weight,
            shift=None if self.shift is None else self.shift.without(parameters),
        )
        return kept if kept.parameters else None

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        shares = []
        if self.shift is not None and self._shifts(parameter):
            shares.append(self.shift.jacobian_rows(parameter, cotangent, layout, part))
        if parameter is self.weight:
            g, a = (factor[..., part, :] for factor in self.factors(cotangent, layout))
            a = a.conj()
            left, right = (g, a) if self.on_left else (a, g)
            # (·, n, B, p or d, T) @ (·, n, B, T, d or p)
            shares.append(left.permute(0, 1, 3, 4, 2) @ right.permute(0, 1, 3, 2, 4))
        return summed(shares)

    def only_weight(self, parameter: Tensor) -> bool:
        """Whether it is the product's weight, and not what is added as well."""
        return parameter is self.weight and not self._shifts(parameter)

    def _shifts(self, parameter: Tensor) -> bool:
        return self.shift is not None and any(parameter is shifted for shifted in self.shift.parameters)

    def factors(self, cotangent: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """The cotangents (o, n, T, B, p) and the inputs (1, n, T, B, d)."""
        assert self.activation is not None
        return layout.split(cotangent), layout.split(self.activation.unsqueeze(0))


class BatchedBlock(SideBySide[linear_blocks.LinearBlock]):
    """The Jacobian of the matrices of one weight, (B, ·, ·): blocks of linear layers, side by side.

    Args:
        weight: The parameter.
        blocks: Of ``weight[b]``, for every b.
    """

    def __init__(self, weight: Tensor, blocks: Sequence[linear_blocks.LinearBlock]):
        super().__init__(blocks)
        self._weight = weight

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self._weight,)

    def plans(self) -> list[Plan]:
        plans = [plan for block in self._blocks for plan in block.plans()]
        flops, memory = sum(plan.flops for plan in plans), sum(plan.memory for plan in plans)
        why = f"{len(plans)} matrices, of each: {plans[0].why}"
        return [Plan(self.parameters, plans[0].rule, why, flops, memory)]

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        for block in self._blocks:
            block.add_transposed_(v, alpha)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self._weight, torch.stack([part for block in self._blocks for _, part in block.transposed(v)]))]

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        return torch.stack([block.explicit_rows(block.weight) for block in self._blocks[part]], 2)

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        matrices = direction[self._weight]
        products = [block.product({block.weight: u}) for block, u in zip(self._blocks, matrices, strict=True)]
        return summed(products)


def block(
    weight: Tensor, uses: Sequence[tuple[BatchedProductUse, Tensor, Layout]], rows: Rows, choose: Chooser
) -> BatchedBlock:
    """The block of a weight of such products only.

    Args:
        weight: The weight, (B, ·, ·).
        uses: Each with its cotangent and layout; in all of them it is the weight.
        rows: The shape of the residuals.
        choose: Chooses between the ways to the Gram matrix of several positions.
    """
    on_left = uses[0][0].on_left
    factors = [
        (g, a) if use.on_left == on_left else (a, g)
        for use, cotangent, layout in uses
        for g, a in (use.factors(cotangent, layout),)
    ]
    return BatchedBlock(
        weight,
        [
            linear_blocks.block(
                [(g[..., b, :], a[..., b, :]) for g, a in factors], weight[b], None, not on_left, rows, choose
            )
            for b in range(len(weight))
        ],
    )


def _bmm(node: Node, edges: Edges, parameters: Parameters) -> BatchedProductUse | None:
    """Recognises ``torch.bmm(left, right)``, to which ``einsum`` and ``matmul`` come as well."""
    return _use(node, edges, parameters, 0, "self", "mat2")


def _baddbmm(node: Node, edges: Edges, parameters: Parameters) -> BatchedProductUse | None:
    """Recognises ``torch.baddbmm(added, left, right)``."""
    if saved(node, "alpha") != 1 or saved(node, "beta") != 1:
        return None
    return _use(node, edges, parameters, 1, "batch1", "batch2", shift=elementwise.shift(node, edges, parameters))


def _use(
    node: Node,
    edges: Edges,
    parameters: Parameters,
    first: int,
    left_name: str,
    right_name: str,
    shift: ElementwiseUse | None = None,
) -> BatchedProductUse | None:
    """The use by a product whose factors are the inputs ``first`` and the next, saved under those names."""
    left, right = leaf(edges[first], parameters), leaf(edges[first + 1], parameters)
    if left is not None and right is not None:
        return None  # each depends on what is trained, and either may be the layer's input
    weight, on_left = (right, False) if left is None else (left, True)
    activation = None
    if weight is not None:
        activation = layer_input(saved(node, right_name if on_left else left_name), weight, parameters)
    elif shift is None:
        return None
    handled = (() if shift is None else (0,)) + (() if weight is None else (first if on_left else first + 1,))
    return BatchedProductUse(GradientEdge(node, 0), activation, weight, on_left, shift, handled)


RECOGNISERS = {"BmmBackward0": _bmm, "BaddbmmBackward0": _baddbmm}
