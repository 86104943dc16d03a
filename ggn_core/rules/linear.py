"""The rule of linear layers: z = a Wᵀ + c, over single vectors or sequences.

With a_t the input and g_t = ∂f/∂z_t the output cotangent at position t, a sample's Jacobian row is
∂f/∂W = Σ_t g_t ⊗ a_t and ∂f/∂c = Σ_t g_t, so that

    (J Jᵀ)_ij = Σ_{t,s} (g_it · g_js) (a_it · a_js + 1)          (the 1 is the bias's share)
    Jᵀ v      = Σ_i v_i Σ_t g_it ⊗ a_it                          (one product, the size of a weight gradient)

A weight used several times is a weight with more positions: its uses are laid end to end along t.
"""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import Edges, Layout, Rows, leaf, output_shape, saved
from .dense import add_outer_

__all__ = ["RECOGNISERS", "LinearBlock", "LinearUse", "blocks"]

# Elements that one temporary of the Gram may hold: 2**24 float32 are 64 MiB.
TEMPORARY_ELEMENTS = 2**24


@dataclass(frozen=True, eq=False)
class LinearUse:
    """One product of rows with a matrix, z = a Wᵀ + c.

    Attributes:
        edge: The product's output z, of shape (R, p).
        rows: R.
        activation: The input rows a, of shape (R, d); None if the weight is not trainable.
        weight: The weight, if it is a trainable parameter; stored as (p, d), or as (d, p) if ``flipped``.
        bias: The bias, of shape (p,), if it is a trainable parameter.
        flipped: Whether the product is a W rather than a Wᵀ.
        handled: Positions, among the node's inputs, of the weight and the bias.
    """

    edge: GradientEdge
    rows: int
    activation: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    flipped: bool
    handled: tuple[int, ...]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(p for p in (self.weight, self.bias) if p is not None)

    def layouts(self, samples: int) -> Sequence[Layout]:
        return Layout.along(0, self.rows, samples)

    def without(self, parameters: Container[Tensor]) -> "LinearUse | None":
        kept = replace(
            self,
            weight=None if self.weight in parameters else self.weight,
            bias=None if self.bias in parameters else self.bias,
        )
        return kept if kept.parameters else None

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout) -> Tensor:
        g = layout.split(cotangent)  # (o, n, T, p)
        if parameter is self.bias:
            return g.sum(2)
        assert self.activation is not None
        a = layout.split(self.activation.unsqueeze(0))  # (1, n, T, d)
        rows = g.transpose(2, 3) @ a  # (o, n, p, d)
        return rows.transpose(2, 3) if self.flipped else rows


def _addmm(node: Node, edges: Edges, parameters: Collection[Tensor]) -> LinearUse | None:
    """Recognises ``torch.addmm(bias, a, weight)``, the product behind ``torch.nn.functional.linear`` with a bias."""
    if saved(node, "alpha") != 1 or saved(node, "beta") != 1:
        return None
    weight, flipped = _matrix(edges[2][0], parameters)
    bias = leaf(edges[0][0], parameters)
    if bias is not None and bias.shape != output_shape(node)[1:]:
        bias = None  # broadcast in another way: the generic rule's
    rows = saved(node, "mat1_sym_sizes")[0]
    activation = saved(node, "mat1") if weight is not None else None
    return _use(node, parameters, rows, activation, weight, bias, flipped, weight_at=2)


def _mm(node: Node, edges: Edges, parameters: Collection[Tensor]) -> LinearUse | None:
    """Recognises ``torch.mm(a, weight)``, the product behind ``torch.nn.functional.linear`` without a bias."""
    weight, flipped = _matrix(edges[1][0], parameters)
    if weight is None:
        return None
    activation = saved(node, "self")
    return _use(node, parameters, activation.shape[0], activation, weight, None, flipped, weight_at=1)


def _use(
    node: Node,
    parameters: Collection[Tensor],
    rows: int,
    activation: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    flipped: bool,
    *,
    weight_at: int,
) -> LinearUse | None:
    if weight is None and bias is None:
        return None
    handled = ((weight_at,) if weight is not None else ()) + ((0,) if bias is not None else ())
    if activation is not None and any(_share_memory(activation, p) for p in parameters):
        activation = activation.clone()  # a parameter is the layer's input: the update must not change it underway
    return LinearUse(GradientEdge(node, 0), rows, activation, weight, bias, flipped, handled)


def _share_memory(first: Tensor, second: Tensor) -> bool:
    # Sparse and other exotic tensors have no plain storage, and share none.
    if first.layout != torch.strided or second.layout != torch.strided:
        return False
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def _matrix(node: Node | None, parameters: Container[Tensor]) -> tuple[Tensor | None, bool]:
    """The parameter W behind the second factor of a product, and whether the product is with W rather than Wᵀ."""
    if node is not None and node.name() == "TBackward0":
        return leaf(node.next_functions[0][0], parameters), False
    return leaf(node, parameters), True


class LinearBlock:
    """The Jacobian of one weight, of one bias, or of a weight and the bias that is always used with it.

    Row (k, i) of the weight's part is Σ_t left[k, i, t] ⊗ right[k, i, t]; a leading dimension of 1 serves all outputs.

    Args:
        left: (o or 1, n, T, p).
        right: (o or 1, n, T, d); None for a bias alone.
        weight: Parameter of shape (p, d), or (d, p) if ``flipped``.
        bias: Parameter of shape (p,), whose row is Σ_t left[k, i, t].
        flipped: Whether the parameter holds the transpose.
        rows: The shape of the residuals.
    """

    def __init__(
        self, left: Tensor, right: Tensor | None, weight: Tensor | None, bias: Tensor | None, flipped: bool, rows: Rows
    ):
        self.left = left
        self.right = right
        self.weight = weight
        self.bias = bias
        self.flipped = flipped
        self.outputs = rows.outputs

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    def add_gram_(self, gram: Tensor) -> None:
        if self.right is None:
            add_outer_(gram, self.left.sum(2).flatten(0, 1))
        elif self.left.shape[2] == 1:
            self._add_single_(gram, self.right)
        elif self._ghost_is_cheaper(self.right):
            self._add_ghost_(gram, self.right)
        else:
            self._add_materialized_(gram, self.right)

    def _add_single_(self, gram: Tensor, right: Tensor) -> None:
        """One position: the Gram is the product, element by element, of two small Grams."""
        factor = _inner(right.squeeze(2))  # (o|1, n, o|1, n)
        if self.bias is not None:
            factor += 1
        gram.addcmul_(factor, _inner(self.left.squeeze(2)))

    def _add_ghost_(self, gram: Tensor, right: Tensor) -> None:
        """Several positions, without forming any sample's gradient: Σ_{t,s} (g_it · g_js)(a_it · a_js + 1)."""
        for t in range(self.left.shape[2]):
            for s in range(self.left.shape[2]):
                factor = _inner(right[:, :, t], right[:, :, s])
                if self.bias is not None:
                    factor += 1
                gram.addcmul_(factor, _inner(self.left[:, :, t], self.left[:, :, s]))

    def _add_materialized_(self, gram: Tensor, right: Tensor) -> None:
        """Several positions, forming the samples' gradients for a few rows of the weight at a time."""
        o, n, d = self.outputs, self.left.shape[1], right.shape[3]
        step = max(1, TEMPORARY_ELEMENTS // max(1, o * n * d))
        for start in range(0, self.left.shape[3], step):
            part = self.left[..., start : start + step]
            rows = torch.matmul(part.transpose(2, 3), right)  # (o, n, p', T) @ (o, n, T, d) -> (o, n, p', d)
            add_outer_(gram, rows.flatten(2).flatten(0, 1))
        if self.bias is not None:
            add_outer_(gram, self.left.sum(2).flatten(0, 1))

    def _ghost_is_cheaper(self, right: Tensor) -> bool:
        """Counts multiply-adds: T² pairs of positions, or one gradient a sample and the Gram of those."""
        lead, n, t, p = self.left.shape
        d, o = right.shape[3], self.outputs
        ghost = t * t * ((lead * n) ** 2 * p + (right.shape[0] * n) ** 2 * d)
        materialized = o * n * t * d * p + (o * n) ** 2 * d * p
        return ghost < materialized

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        left, right = self._weighted(v)
        parts = []
        if self.weight is not None and right is not None:
            parts.append((self.weight, right.T @ left if self.flipped else left.T @ right))
        if self.bias is not None:
            parts.append((self.bias, left.sum(0)))
        return parts

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        """Entry (k, i) is Σ_t left[k, i, t] · (U right[k, i, t] + c), with U and c the parts of weight and bias."""
        left, right = self.left, self.right
        total = left.new_zeros(self.outputs, left.shape[1])
        if self.weight is not None and right is not None:
            u = direction[self.weight].to(self.dtype)
            u = u.T if self.flipped else u
            if right.shape[0] == 1:  # the matrix meets the side that does not carry the outputs
                total += (left * (right @ u.T)).sum((2, 3))  # (1, n, T, d) @ (d, p)
            else:
                total += ((left @ u) * right).sum((2, 3))  # (o or 1, n, T, p) @ (p, d)
        if self.bias is not None:
            total += (left @ direction[self.bias].to(self.dtype)).sum(2)
        return total

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        left, right = self._weighted(v)
        if self.weight is not None and right is not None:
            matrix = self.weight.t() if self.flipped else self.weight
            matrix.addmm_(left.T, right, alpha=alpha)  # the update itself: no gradient is stored
        if self.bias is not None:
            self.bias.add_(left.sum(0), alpha=alpha)

    def _weighted(self, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """Factors (R', p) and (R', d) with Jᵀ v = leftᵀ right: the weights v_ki go to whichever side carries k."""
        v = v[:, :, None, None]  # (o, n, 1, 1)
        left, right = self.left, self.right
        if right is None or right.shape[0] == 1:
            left = (left * v).sum(0, keepdim=True) if self.outputs > 1 else left * v
        elif left.shape[0] == 1:
            right = (right * v).sum(0, keepdim=True)
        else:
            left = left * v
        return left.flatten(0, 2), None if right is None else right.flatten(0, 2)


def _inner(x: Tensor, y: Tensor | None = None) -> Tensor:
    """All inner products of rows: (k, n, d), (l, n, d) -> (k, n, l, n)."""
    y = x if y is None else y
    return (x.flatten(0, 1) @ y.flatten(0, 1).T).view(*x.shape[:2], *y.shape[:2])


def blocks(
    uses: Sequence[tuple[LinearUse, Tensor, Layout]], parameters: Container[Tensor], rows: Rows
) -> list[LinearBlock]:
    """Lays the uses of each parameter end to end and pairs a bias with its weight where both are always used together.

    Args:
        uses: Each use with its cotangent (o, R, p) and the layout of its R rows.
        parameters: The parameters to make blocks of; others are passed over.
        rows: The shape of the residuals.
    """
    of_weight: dict[Tensor, list[int]] = {}
    of_bias: dict[Tensor, list[int]] = {}
    for index, (use, _, _) in enumerate(uses):
        if use.weight is not None and use.weight in parameters:
            of_weight.setdefault(use.weight, []).append(index)
        if use.bias is not None and use.bias in parameters:
            of_bias.setdefault(use.bias, []).append(index)

    made = []
    paired: set[Tensor] = set()
    for weight, indices in of_weight.items():
        mine = [uses[i] for i in indices]
        flipped = mine[0][0].flipped
        bias = mine[0][0].bias
        same_side = all(use.flipped == flipped for use, _, _ in mine)
        if bias is not None and of_bias.get(bias) == indices and same_side:
            paired.add(bias)
        else:
            bias = None
        left, right = _end_to_end([_factors(use, g, layout, flipped) for use, g, layout in mine])
        made.append(LinearBlock(left, right, weight, bias, flipped, rows))
    for bias, indices in of_bias.items():
        if bias not in paired:
            lefts = [layout.split(g) for _, g, layout in (uses[i] for i in indices)]
            made.append(LinearBlock(torch.cat(lefts, 2) if len(lefts) > 1 else lefts[0], None, None, bias, False, rows))
    return made


def _factors(use: LinearUse, cotangent: Tensor, layout: Layout, flipped: bool) -> tuple[Tensor, Tensor]:
    """Left (.., n, T, p) and right (.., n, T, d) for a weight seen as (p, d), whichever way this use multiplies."""
    assert use.activation is not None
    g, a = layout.split(cotangent), layout.split(use.activation.unsqueeze(0))
    return (g, a) if use.flipped == flipped else (a, g)


def _end_to_end(factors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Concatenates the positions of several uses, giving all of them the same leading dimension."""
    if len(factors) == 1:
        return factors[0]
    sides = []
    for side in zip(*factors, strict=True):
        lead = max(part.shape[0] for part in side)
        sides.append(torch.cat([part.expand(lead, -1, -1, -1) for part in side], 2))
    return sides[0], sides[1]


RECOGNISERS = {"AddmmBackward0": _addmm, "MmBackward0": _mm}
