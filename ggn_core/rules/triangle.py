"""Symmetric products, computed once: a Gram matrix is summed up in its lower triangle, and mirrored in the end."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["add_outer_", "is_one_product", "lower_blocks", "mirrored"]

# Columns of one block. Fewer save more of the upper triangle, and make products that are too thin to be fast: with 64
# the triangle takes as long as the whole, with 128 two thirds to five sixths of that, from 512 rows on.
BLOCK_COLUMNS = 128

# Multiply-adds of a whole product below which one block is faster than several: a fraction of a millisecond's work.
LEAST_WORK = 2**26


def lower_blocks(size: int, entries: int, unit: int = 1) -> Iterator[slice]:
    """Block columns that cover ``size`` columns; block ``b`` meets the lower triangle in the rows from ``b.start`` on.

    Args:
        size: Number of columns, a multiple of ``unit``.
        entries: Of a row of the factors: the length of the inner products.
        unit: Blocks begin and end at multiples of it.
    """
    if is_one_product(size, entries):
        yield slice(0, size)
        return
    units = size // unit
    step = -(-units // -(-size // BLOCK_COLUMNS)) * unit  # even blocks, whole units each
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def add_outer_(gram: Tensor, rows: Tensor) -> None:
    """Adds the Gram of explicit rows (N, m) to the lower triangle of ``gram`` (N, N)."""
    for block in lower_blocks(*rows.shape):
        gram[block.start :, block].addmm_(rows[block.start :], rows[block].T)


def mirrored(lower: Tensor, out: Tensor | None = None) -> Tensor:
    """The symmetric matrix with this lower triangle; what stands above the diagonal counts only if all is one block.

    Args:
        lower: (N, N).
        out: (N, N), of any dtype, to write it to.
    """
    if out is None:
        out = torch.empty_like(lower)
    if in_one_block(len(lower)):
        return out.copy_(lower)
    for start in range(0, len(lower), BLOCK_COLUMNS):
        block = slice(start, start + BLOCK_COLUMNS)
        left, corner = lower[block, :start], lower[block, block]
        out[block, :start] = left
        out[:start, block] = left.T
        out[block, block] = corner.tril() + corner.tril(-1).T
    return out


def is_one_product(size: int, entries: int) -> bool:
    """Whether a Gram matrix of so many rows, with so many entries each, is computed whole."""
    return in_one_block(size) or size**2 * entries < LEAST_WORK


def in_one_block(size: int) -> bool:
    """Whether one block covers all rows, and so the triangle above the diagonal as well."""
    return size <= BLOCK_COLUMNS
