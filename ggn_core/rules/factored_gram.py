"""Gram matrices of factored rows: row (k, i) is Σ_t left[k, i, t] ⊗ right[k, i, t], and Σ_t left[k, i, t] for a bias.

The bias adds 1 to every inner product of right: (g ⊗ a) · (g' ⊗ a') + g · g' = (g · g')(a · a' + 1). A leading
dimension of 1 serves all outputs k. Every function adds to the lower triangle of ``gram`` (o n, o n), whose rows run
output by output.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .triangle import add_outer_, is_one_product, lower_blocks

__all__ = ["WAYS", "AddGram", "add_vectors_"]

# Elements that one temporary of the Gram may hold: 2**24 float32 are 64 MiB.
TEMPORARY_ELEMENTS = 2**24


def add_vectors_(gram: Tensor, left: Tensor, right: Tensor, with_bias: bool) -> None:
    """One position: the product, entry by entry, of two small Grams, (g_i · g_j)(a_i · a_j + 1).

    Args:
        gram: The matrix.
        left: (o or 1, n, p).
        right: (o or 1, n, d).
        with_bias: Whether the 1 is added.
    """
    size, n = gram.shape[0], left.shape[1]
    # What all outputs share is a small product. The others decide about blocks.
    entries = max(side.shape[2] for side in (left, right) if len(side) * n == size)
    if size == n and is_one_product(size, entries):  # one output: the same in fewer steps, for here they count
        g, a = left[0], right[0]
        gram.addcmul_(_inner_products(g, g), _inner_products(a, a, with_bias))
        return
    lefts, rights = _Products(left, size), _Products(right, size, with_bias)
    shared = lefts.shared is not None or rights.shared is not None
    for block in lower_blocks(size, entries, n if shared else 1):
        tile = gram[block.start :, block]
        if shared:  # (b n, c n) -> (b, n, c, n), over which what all outputs share, (1, n, 1, n), is broadcast
            tile = torch.unflatten(torch.unflatten(tile, 1, (-1, n)), 0, (-1, n))
        tile.addcmul_(lefts(block, tile), rights(block, tile))


def add_ghost_(gram: Tensor, left: Tensor, right: Tensor, with_bias: bool) -> None:
    """Several positions, without forming a sample's gradient: Σ_{t,s} (g_it · g_js)(a_it · a_js + 1).

    For a few samples j at a time, the products with all positions of the samples from j on are two matrices, of left
    and of right, to be multiplied entry by entry and summed over t and s.

    Args:
        gram: The matrix, contiguous.
        left: (o or 1, n, t, p).
        right: (o or 1, n, t, d).
        with_bias: Whether the 1 is added.
    """
    n, t = left.shape[1:3]
    o = len(gram) // n
    by_output = gram.view(o, n, o, n)
    for block in lower_blocks(n * o * t, max(left.shape[3], right.shape[3]), o * t):
        samples = slice(block.start // (o * t), block.stop // (o * t))
        later = n - samples.start
        # Beyond some size, a part of the positions s at a time.
        step = max(1, TEMPORARY_ELEMENTS // (o * later * t * o * (samples.stop - samples.start)))
        for first in range(0, t, step):
            part = slice(first, first + step)
            lefts = _position_products(left, samples, part)
            rights = _position_products(right, samples, part, with_bias)
            products = lefts.mul_(rights) if lefts.numel() >= rights.numel() else rights.mul_(lefts)
            tile = products.sum(2).sum(4)  # (o, n', t, o, c, s) -> (o, n', o, c)
            by_output[:, samples.start :, :, samples] += tile
            # Below the diagonal for one pair of outputs is above it for the other.
            later_still = tile[:, samples.stop - samples.start :]
            by_output[:, samples, :, samples.stop :] += later_still.permute(2, 3, 0, 1)


def add_materialized_(gram: Tensor, left: Tensor, right: Tensor, with_bias: bool) -> None:
    """Several positions, the samples' gradients formed: for a few rows of the weight at a time.

    Args:
        gram: The matrix.
        left: (o or 1, n, t, p).
        right: (o or 1, n, t, d).
        with_bias: Whether the bias has part in it.
    """
    rows, d = len(gram), right.shape[3]
    step = max(1, TEMPORARY_ELEMENTS // max(1, rows * d))
    for start in range(0, left.shape[3], step):
        part = left[..., start : start + step]
        gradients = torch.matmul(part.transpose(2, 3), right)  # (o, n, p', t) @ (o, n, t, d) -> (o, n, p', d)
        add_outer_(gram, gradients.flatten(2).flatten(0, 1))
    if with_bias:
        add_outer_(gram, left.sum(2).flatten(0, 1))


AddGram = Callable[[Tensor, Tensor, Tensor, bool], None]
WAYS: dict[str, AddGram] = {"ghost": add_ghost_, "materialized": add_materialized_}  # for several positions


def _inner_products(x: Tensor, y: Tensor, plus_one: bool = False) -> Tensor:
    """x_i · y_j, perhaps + 1: (R, m) and (C, m) -> (R, C)."""
    return torch.addmm(x.new_ones(()), x, y.T) if plus_one else x @ y.T


def _position_products(side: Tensor, samples: slice, positions: slice, plus_one: bool = False) -> Tensor:
    """Of all positions of the samples from ``samples`` on, with some positions of those in ``samples``.

    Args:
        side: (o or 1, n, t, m).
        samples: c of them.
        positions: s of them.
        plus_one: Whether 1 is added.

    Returns:
        (o or 1, n', t, o or 1, c, s).
    """
    x, y = side[:, samples.start :], side[:, samples, positions]
    products = _inner_products(x.flatten(0, 2), y.flatten(0, 2), plus_one)
    return products.view(*x.shape[:3], *y.shape[:3])


class _Products:
    """Inner products of rows (o or 1, n, m), tile by tile; those that all outputs share are computed once."""

    def __init__(self, side: Tensor, size: int, plus_one: bool = False):
        self.rows, self.plus_one = side.flatten(0, 1), plus_one
        self.shared: Tensor | None = None
        if len(self.rows) < size:
            self.shared = _inner_products(self.rows, self.rows, plus_one)[None, :, None]  # (1, n, 1, n)

    def __call__(self, block: slice, tile: Tensor) -> Tensor:
        if self.shared is not None:
            return self.shared
        return _inner_products(self.rows[block.start :], self.rows[block], self.plus_one).view(tile.shape)
