"""Jacobian blocks of linear layers, kept as factors: row (k, i) is Σ_t left[k, i, t] ⊗ right[k, i, t].

A leading dimension of 1 serves all outputs k: the layer's input does not depend on which of them is differentiated.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..choice import COUNTED, Choice, Chooser
from .base import WHOLE, Block, Layout, Plan, Rows, cut, summed
from .dense import DenseBlock
from .factored_gram import WAYS, AddGram, add_vectors_
from .linear import LinearUse

__all__ = ["LinearBlock", "SequenceBlock", "VectorBlock", "block", "blocks", "factors"]

Pair = tuple[Tensor, Tensor]


class LinearBlock(ABC):
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

    @abstractmethod
    def plans(self) -> list[Plan]: ...

    @abstractmethod
    def add_gram_(self, gram: Tensor) -> None: ...

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
        return block([(left, right)], self.weight, self.bias, self.flipped, rows)

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
        add_vectors_(gram, self.left, self.right, self.bias is not None)


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
        WAYS[self._choice.way](gram, self.left, self.right, self.bias is not None)

    @cached_property
    def _choice(self) -> Choice:
        counts, t = self._multiply_adds(), self.left.shape[2]
        gflop = {way: f"{2 * count / 1e9:.3g}" for way, count in counts.items()}
        why = f"{t} positions: {gflop['ghost']} GFLOP as a ghost, {gflop['materialized']} materialized"
        sides = [(side.shape, side.stride(), side.dtype) for side in (self.left, self.right)]
        key = ("sequence", *sides, self.bias is None)
        ways = {way: partial(self._try, add_gram_) for way, add_gram_ in WAYS.items()}
        return self._choose(Choice(min(counts, key=counts.__getitem__), why), key, ways, self.left.device)

    def _try(self, add_gram_: AddGram) -> None:
        gram = self.left.new_zeros(self.rows.total, self.rows.total)
        add_gram_(gram, self.left, self.right, self.bias is not None)

    def _multiply_adds(self) -> dict[str, int]:
        """Of both ways: T² pairs of positions, or one gradient a sample and the Gram of those; half of each Gram."""
        lead, n, t, p = self.left.shape
        d, o = self.right.shape[3], self.rows.outputs
        ghost = t * t * ((lead * n) ** 2 * p + (self.right.shape[0] * n) ** 2 * d) // 2
        materialized = o * n * t * d * p + (o * n) ** 2 * d * p // 2
        return {"materialized": materialized, "ghost": ghost}


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
            made.append(block([factors(*use, flipped) for use in mine], weight, bias, flipped, rows, choose))
    for bias, indices in of_bias.items():
        if bias not in paired:
            parts = [layout.split(g).sum(2) for _, g, layout in (uses[i] for i in indices)]  # (o, n, p) each
            made.append(DenseBlock([bias], [summed(parts)]))
    return made


def block(
    factors: Sequence[Pair],
    weight: Tensor,
    bias: Tensor | None,
    flipped: bool,
    rows: Rows,
    choose: Chooser = COUNTED,
) -> LinearBlock:
    """Factors of all uses, each (o or 1, n, T, ·), in one block."""
    left, right = _end_to_end(factors)
    if left.shape[2] == 0:  # empty sequences: as one position with a cotangent of zero
        left, right = (torch.nn.functional.pad(side, (0, 0, 0, 1)) for side in (left, right))
    if left.shape[2] > 1:
        return SequenceBlock(left, right, weight, bias, flipped, rows, choose=choose)
    return VectorBlock(left.squeeze(2), right.squeeze(2), weight, bias, flipped, rows)


def _vectors(use: LinearUse, cotangent: Tensor, layout: Layout) -> Pair | None:
    """Left (o, n, p) and right (1, n, d) as they come, where every row is a sample: the plain case, in few steps."""
    if layout.positions != 1 or layout.axis != 0:
        return None
    assert use.activation is not None
    return cotangent, use.activation.unsqueeze(0)


def factors(use: LinearUse, cotangent: Tensor, layout: Layout, flipped: bool) -> Pair:
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
