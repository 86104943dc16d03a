"""Jacobian blocks of linear layers, kept as factors: row (k, i) is Σ_t left[k, i, t] ⊗ right[k, i, t].

A leading dimension of 1 serves all outputs k: the layer's input does not depend on which of them is differentiated.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..choice import COUNTED, Choice, Chooser
from .base import WHOLE, Block, Layout, Plan, Rows, cut
from .dense import DenseBlock
from .linear import LinearUse
from .triangle import add_outer_, is_one_product, lower_blocks

__all__ = ["LinearBlock", "SequenceBlock", "VectorBlock", "blocks"]

# Elements that one temporary of the Gram may hold: 2**24 float32 are 64 MiB.
TEMPORARY_ELEMENTS = 2**24


class LinearBlock:
    """The Jacobian of one weight, perhaps with the bias that is always used with it.

    Args:
        left: (o or 1, n, …, p), with the positions in between if there are several.
        right: (o or 1, n, …, d).
        weight: Parameter of shape (p, d), or (d, p) if ``flipped``.
        bias: Parameter of shape (p,), whose row is Σ_t left[k, i, t]; left carries the outputs then.
        flipped: Whether the parameter holds the transpose.
        rows: The shape of the residuals.
    """

    def __init__(self, left: Tensor, right: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool, rows: Rows):
        self.left = left
        self.right = right
        self.weight = weight
        self.bias = bias
        self.flipped = flipped
        self.rows = rows

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    @property
    def memory(self) -> int:
        """Bytes of what is not in the graph already: the cotangents."""
        return max(self.left.nbytes, self.right.nbytes) if self.flipped else self.left.nbytes

    def plans(self) -> list[Plan]:
        raise NotImplementedError

    def add_gram_(self, gram: Tensor) -> None:
        raise NotImplementedError

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        left, right = self._weighted(v)
        parts = [(self.weight, right.T @ left if self.flipped else left.T @ right)]
        if self.bias is not None:
            parts.append((self.bias, left.sum(0)))
        return parts

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        left, right = self._weighted(v)
        matrix = self.weight.t() if self.flipped else self.weight
        matrix.addmm_(left.T, right, alpha=alpha)  # the update itself: no gradient is stored
        if self.bias is not None:
            self.bias.add_(left.sum(0), alpha=alpha)

    @property
    def kind(self) -> str:
        """Equal for blocks whose factors can be joined."""
        return "linear, flipped" if self.flipped else "linear"

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Left (o or 1, n, T, p) and right (o or 1, n, T, d); zeros may be added at the end of T."""
        left, right = self.left, self.right
        return (left, right) if left.dim() == 4 else (left.unsqueeze(2), right.unsqueeze(2))

    def joined(self, factors: Sequence[Tensor], rows: Rows) -> "LinearBlock":
        """The same block with the factors of more samples."""
        left, right = factors
        return _block([(left, right)], self.weight, self.bias, self.flipped, rows)

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        left, right = self.factors
        if parameter is self.bias:
            return cut(left.sum(2), part)
        if self.flipped:
            left, right = right, left
        return left[..., part].transpose(2, 3) @ right  # (o, n, p', T) @ (1, n, T, d) -> (o, n, p', d)

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        """Entry (k, i) is Σ_t left[k, i, t] · (U right[k, i, t] + c), with U and c the parts of weight and bias."""
        u = direction[self.weight].to(self.dtype)
        u = u.T if self.flipped else u
        # The matrix meets the side that does not carry the outputs, if there is one: (1, n, …, d) @ (d, p).
        terms = self.left * (self.right @ u.T) if self.right.shape[0] == 1 else (self.left @ u) * self.right
        total = terms.flatten(2).sum(2)
        if self.bias is not None:
            total = total + (self.left * direction[self.bias].to(self.dtype)).flatten(2).sum(2)
        return total

    def _weighted(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (R', p) and (R', d) with Jᵀ v = leftᵀ right: the weights v_ki go to whichever side carries k."""
        left, right = self.left, self.right
        v = v.view(*v.shape, *(1,) * (left.dim() - 2))  # (o, n, 1, …)
        if right.shape[0] == 1:
            left = (left * v).sum(0, keepdim=True) if self.rows.outputs > 1 else left * v
        elif left.shape[0] == 1:
            right = (right * v).sum(0, keepdim=True)
        else:
            left = left * v
        return left.flatten(0, -2), right.flatten(0, -2)


class VectorBlock(LinearBlock):
    """One position a sample: factors (o or 1, n, p) and (o or 1, n, d)."""

    def plans(self) -> list[Plan]:
        flops = sum((len(side) * side.shape[1]) ** 2 * side.shape[2] for side in (self.left, self.right))
        return [Plan(self.parameters, "product of two Grams", "one position a sample", flops, self.memory)]

    def add_gram_(self, gram: Tensor) -> None:
        """The product, element by element, of two small Grams: (g_i · g_j)(a_i · a_j + 1), the 1 being the bias's."""
        _add_products_(gram, (self.left, self.left), (self.right, self.right), self.bias is not None)


class SequenceBlock(LinearBlock):
    """Several positions a sample: factors (o or 1, n, T, p) and (o or 1, n, T, d).

    Args:
        choose: Chooses between the two ways to the Gram matrix.
        *block: As for LinearBlock.
    """

    def __init__(self, *block: Any, choose: Chooser = COUNTED):
        super().__init__(*block)
        self._choose = choose

    def plans(self) -> list[Plan]:
        choice = self._choice
        return [Plan(self.parameters, choice.way, choice.why, 2 * self._multiply_adds()[choice.way], self.memory)]

    def add_gram_(self, gram: Tensor) -> None:
        self._ways[self._choice.way](gram)

    @property
    def _ways(self) -> dict[str, Callable[[Tensor], None]]:
        return {"ghost": self._add_ghost_, "materialized": self._add_materialized_}

    @cached_property
    def _choice(self) -> Choice:
        counts, t = self._multiply_adds(), self.left.shape[2]
        gflop = {way: f"{2 * count / 1e9:.3g}" for way, count in counts.items()}
        why = f"{t} positions: {gflop['ghost']} GFLOP as a ghost, {gflop['materialized']} materialized"
        sides = [(side.shape, side.stride(), side.dtype) for side in (self.left, self.right)]
        key = ("sequence", *sides, self.bias is None)
        ways = {way: partial(self._try, add_) for way, add_ in self._ways.items()}
        return self._choose(Choice(min(counts, key=counts.__getitem__), why), key, ways, self.left.device)

    def _try(self, add_gram_: Callable[[Tensor], None]) -> None:
        add_gram_(self.left.new_zeros(self.rows.total, self.rows.total))

    def _add_ghost_(self, gram: Tensor) -> None:
        """Without forming any sample's gradient: Σ_{t,s} (g_it · g_js)(a_it · a_js + 1)."""
        factors = list(zip(self.left.unbind(2), self.right.unbind(2), strict=True))
        for left, right in factors:
            for other_left, other_right in factors:
                _add_products_(gram, (left, other_left), (right, other_right), self.bias is not None)

    def _add_materialized_(self, gram: Tensor) -> None:
        """Forming the samples' gradients, for a few rows of the weight at a time."""
        o, n, d = self.rows.outputs, self.rows.samples, self.right.shape[3]
        step = max(1, TEMPORARY_ELEMENTS // max(1, o * n * d))
        for start in range(0, self.left.shape[3], step):
            part = self.left[..., start : start + step]
            gradients = torch.matmul(part.transpose(2, 3), self.right)  # (o, n, p', T) @ (o, n, T, d) -> (o, n, p', d)
            add_outer_(gram, gradients.flatten(2).flatten(0, 1))
        if self.bias is not None:
            add_outer_(gram, self.left.sum(2).flatten(0, 1))

    def _multiply_adds(self) -> dict[str, int]:
        """Of both ways: T² pairs of positions, or one gradient a sample and the Gram of those; half of each Gram."""
        lead, n, t, p = self.left.shape
        d, o = self.right.shape[3], self.rows.outputs
        ghost = t * t * ((lead * n) ** 2 * p + (self.right.shape[0] * n) ** 2 * d) // 2
        materialized = o * n * t * d * p + (o * n) ** 2 * d * p // 2
        return {"materialized": materialized, "ghost": ghost}


Pair = tuple[Tensor, Tensor]


def _add_products_(gram: Tensor, lefts: Pair, rights: Pair, with_bias: bool) -> None:
    """Adds (left_i · left_j)(right_i · right_j + 1) to the lower triangle of ``gram`` (o n, o n); the 1 with a bias.

    Args:
        gram: Rows output-major.
        lefts: Two tensors (o or 1, n, p): of the rows, and of the columns.
        rights: Two tensors (o or 1, n, d).
        with_bias: Whether the 1 is added.
    """
    size, n = gram.shape[0], lefts[0].shape[1]
    # What all outputs share is a small product. The others decide about blocks.
    entries = max(side.shape[2] for side in (lefts[0], rights[0]) if len(side) * n == size)
    if size == n and is_one_product(size, entries):  # one output: the same in fewer steps, for here they count
        (x, y), (a, b) = ((p[0], p[0] if q is p else q[0]) for p, q in (lefts, rights))  # (n, ·) each
        gram.addcmul_(_inner_products(x, y), _inner_products(a, b, plus_one=with_bias))
        return
    left, right = _Products(*lefts, size), _Products(*rights, size, plus_one=with_bias)
    shared = left.shared is not None or right.shared is not None
    for block in lower_blocks(size, entries, n if shared else 1):
        tile = gram[block.start :, block]
        if shared:  # (b n, c n) -> (b, n, c, n), over which what all outputs share, (1, n, 1, n), is broadcast
            tile = torch.unflatten(torch.unflatten(tile, 1, (-1, n)), 0, (-1, n))
        tile.addcmul_(left(block, tile), right(block, tile))


def _inner_products(x: Tensor, y: Tensor, plus_one: bool = False) -> Tensor:
    """x_i · y_j, perhaps + 1: (R, m) and (C, m) -> (R, C)."""
    return torch.addmm(x.new_ones(()), x, y.T) if plus_one else x @ y.T


class _Products:
    """Inner products of rows (o or 1, n, m), tile by tile; those that all outputs share are computed once."""

    def __init__(self, x: Tensor, y: Tensor, size: int, plus_one: bool = False):
        self.x, self.y, self.plus_one = x.flatten(0, 1), y.flatten(0, 1), plus_one
        self.shared: Tensor | None = None
        if len(self.x) < size:
            self.shared = _inner_products(self.x, self.y, plus_one)[None, :, None]  # (1, n, 1, n)

    def __call__(self, block: slice, tile: Tensor) -> Tensor:
        if self.shared is not None:
            return self.shared
        return _inner_products(self.x[block.start :], self.y[block], self.plus_one).view(tile.shape)


def blocks(
    uses: Sequence[tuple[LinearUse, Tensor, Layout]],
    parameters: Container[Tensor],
    rows: Rows,
    choose: Chooser = COUNTED,
) -> list[Block]:
    """Lays the uses of each parameter end to end and pairs a bias with its weight where both are always used together.

    Args:
        uses: Each use with its cotangent (o, R, p) and the layout of its R rows.
        parameters: The parameters to make blocks of; others are passed over.
        rows: The shape of the residuals.
        choose: Chooses between the ways to the Gram matrix of several positions.
    """
    of_weight: dict[Tensor, list[int]] = {}
    of_bias: dict[Tensor, list[int]] = {}
    for index, (use, _, _) in enumerate(uses):
        if use.weight is not None and use.weight in parameters:
            of_weight.setdefault(use.weight, []).append(index)
        if use.bias is not None and use.bias in parameters:
            of_bias.setdefault(use.bias, []).append(index)

    made: list[Block] = []
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
        vectors = _vectors(*mine[0]) if len(mine) == 1 else None
        if vectors is not None:
            made.append(VectorBlock(*vectors, weight, bias, flipped, rows))
        else:
            made.append(_block([_factors(*use, flipped) for use in mine], weight, bias, flipped, rows, choose))
    for bias, indices in of_bias.items():
        if bias not in paired:
            summed = [layout.split(g).sum(2) for _, g, layout in (uses[i] for i in indices)]  # (o, n, p) each
            made.append(DenseBlock([bias], [sum(summed[1:], start=summed[0])]))
    return made


def _block(
    factors: Sequence[Pair],
    weight: Tensor,
    bias: Tensor | None,
    flipped: bool,
    rows: Rows,
    choose: Chooser = COUNTED,
) -> LinearBlock:
    """Factors of all uses, each (o or 1, n, T, ·), in one block."""
    left, right = _end_to_end(factors)
    if left.shape[2] > 1:
        return SequenceBlock(left, right, weight, bias, flipped, rows, choose=choose)
    return VectorBlock(left.squeeze(2), right.squeeze(2), weight, bias, flipped, rows)


def _vectors(use: LinearUse, cotangent: Tensor, layout: Layout) -> Pair | None:
    """Left (o, n, p) and right (1, n, d) as they come, where every row is a sample: the plain case, in few steps."""
    if layout.positions > 1 or layout.axis != 0 or use.activation is None:
        return None
    return cotangent, use.activation.unsqueeze(0)


def _factors(use: LinearUse, cotangent: Tensor, layout: Layout, flipped: bool) -> Pair:
    """Left (·, n, T, p) and right (·, n, T, d) for a weight seen as (p, d), whichever way this use multiplies."""
    assert use.activation is not None
    g, a = layout.split(cotangent), layout.split(use.activation.unsqueeze(0))
    return (g, a) if use.flipped == flipped else (a, g)


def _end_to_end(factors: Sequence[Pair]) -> Pair:
    """Concatenates the positions of several uses, giving all of them the same leading dimension."""
    if len(factors) == 1:
        return factors[0]
    sides = []
    for side in zip(*factors, strict=True):
        lead = max(part.shape[0] for part in side)
        sides.append(torch.cat([part.expand(lead, -1, -1, -1) for part in side], 2))
    return sides[0], sides[1]
