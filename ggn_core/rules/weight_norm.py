"""The block of a linear layer whose weight is normalized by rows, W_r = s_r v_r / ‖v_r‖: no explicit rows of v.

With g_t the cotangent and a_t the input of position t, u_r = v_r / ‖v_r‖ and c_r = s_r / ‖v_r‖, a sample's rows are

    ∂f/∂s_r = q_r             with  q_r = Σ_t g_tr (a_t · u_r)
    ∂f/∂v_r = c_r (Σ_t g_tr a_t − q_r u_r)

Since u_r is a unit vector, v's share of the Gram matrix is that of a linear layer with cotangents c ⊙ g, less
Σ_r c_r² q_ir q_jr; and that of s is Σ_r q_ir q_jr.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..choice import Chooser
from . import linear_blocks
from .base import WHOLE, Layout, Plan, Rows, Use, cut, is_leaf, saved
from .linear import LinearUse
from .linear_blocks import LinearBlock

__all__ = ["WeightNormBlock", "applies", "block"]


class WeightNormBlock:
    """The Jacobian of the parameters of such a weight.

    Args:
        layer: The block of a linear layer with weight v and cotangents g, which become c ⊙ g.
        v: (p, d).
        s: (p, 1).
        norms: Of v's rows, (p, 1).
    """

    def __init__(self, layer: LinearBlock, v: Tensor, s: Tensor, norms: Tensor):
        self._layer, self._v, self._s = layer, v, s
        self._units, self._c = v / norms, (s / norms).squeeze(1)
        products = layer.left * (layer.right @ self._units.T)  # (o, n, T, p), or without T
        self._q = products.sum(2) if products.dim() == 4 else products
        layer.left = layer.left * self._c

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self._v, self._s

    def plans(self) -> list[Plan]:
        (plan,) = self._layer.plans()
        flops = plan.flops + self._q.shape[2] * self._layer.rows.total**2
        why = f"{plan.why}; the weight is normalized"
        return [Plan(self.parameters, plan.rule, why, flops, plan.memory + self._q.nbytes)]

    @property
    def dtype(self) -> torch.dtype:
        return self._layer.dtype

    def add_gram_(self, gram: Tensor) -> None:
        self._layer.add_gram_(gram)
        q = self._q.flatten(0, 1)  # (o n, p)
        gram.addmm_(q * (1 - self._c**2), q.T)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        ((_, of_layer),) = self._layer.transposed(v)
        along = self._along(v)
        return [(self._v, of_layer - self._c[:, None] * along * self._units), (self._s, along)]

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        self._layer.add_transposed_(v, alpha)
        along = self._along(v)
        self._v.addcmul_(self._c[:, None] * along, self._units, value=-alpha)
        self._s.add_(along, alpha=alpha)

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        if parameter is self._s:
            return cut(self._q.unsqueeze(3), part)  # (o, n, p, 1)
        along = (self._c * self._q)[..., part, None] * self._units[part]
        return self._layer.explicit_rows(parameter, part) - along

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        along = (self._units * direction[self._v]).sum(1)  # (p,), of v's direction
        return self._layer.product(direction) + self._q @ (direction[self._s].squeeze(1) - self._c * along)

    def _along(self, v: Tensor) -> Tensor:
        """Σ_ki v_ki q_ki, (p, 1)."""
        return (v.flatten() @ self._q.flatten(0, 1)).unsqueeze(1)


def applies(node: Node, parameters: Sequence[Tensor], uses: Iterable[Use]) -> bool:
    """Whether a computed weight is such a one, of exactly those parameters, and has no other uses."""
    if node.name() != "WeightNormInterfaceBackward0" or saved(node, "dim") != 0:
        return False
    leaves = _leaves(node)
    products = all(isinstance(use, LinearUse) and use.weight is not None and not use.flipped for use in uses)
    return len(leaves) == 2 and set(leaves) == set(parameters) and products


def block(node: Node, uses: Sequence[tuple[Use, Tensor, Layout]], rows: Rows, choose: Chooser) -> WeightNormBlock:
    """The block of the parameters of such a weight.

    Args:
        node: Computes the weight.
        uses: Of the weight, with cotangents and layouts.
        rows: The shape of the residuals.
        choose: Chooses between the ways to the Gram matrix of several positions.
    """
    v, s = _leaves(node)
    factors = [linear_blocks.factors(use, g, layout, False) for use, g, layout in uses if isinstance(use, LinearUse)]
    layer = linear_blocks.block(factors, v, None, False, rows, choose)
    return WeightNormBlock(layer, v, s, saved(node, "result1"))


def _leaves(node: Node) -> list[Tensor]:
    return [child.variable for child, _ in node.next_functions if child is not None and is_leaf(child)]  # type: ignore[attr-defined]
