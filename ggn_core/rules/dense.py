"""Jacobian blocks with explicit rows: for parameters with small gradients, or without another rule."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .base import WHOLE, Plan, as_real, cut, in_shape_of, summed
from .triangle import add_outer_

__all__ = ["DenseBlock", "dense_blocks"]

# Below this many entries a parameter's rows are packed together with others': one product instead of many small ones.
# Above, the copy would cost more than it saves.
PACKED_ENTRIES = 1024


class DenseBlock:
    """Explicit Jacobian rows of some parameters.

    Args:
        parameters: The parameters.
        jacobian: For each parameter, its rows (o, n, *shape); of a complex one, ``as_real``.
    """

    def __init__(self, parameters: Sequence[Tensor], jacobian: Sequence[Tensor]):
        rows = {
            p: part.reshape(part.shape[0] * part.shape[1], -1) for p, part in zip(parameters, jacobian, strict=True)
        }
        self.rows = jacobian[0].shape[:2]  # (o, n)
        small = [p for p in parameters if p.numel() < PACKED_ENTRIES]
        # Matrices (o n, m), each with the parameters whose columns it holds.
        self.matrices = [(rows[p], [p]) for p in parameters if p.numel() >= PACKED_ENTRIES]
        if small:
            self.matrices.append((torch.cat([rows[p] for p in small], 1), small))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(p for _, parameters in self.matrices for p in parameters)

    def plans(self) -> list[Plan]:
        why = "one gradient a sample and output, and their products"
        return [
            Plan(tuple(parameters), "explicit rows", why, len(matrix) * matrix.numel(), matrix.nbytes)
            for matrix, parameters in self.matrices
        ]

    @property
    def dtype(self) -> torch.dtype:
        return self.matrices[0][0].dtype

    def add_gram_(self, gram: Tensor) -> None:
        for matrix, _ in self.matrices:
            add_outer_(gram, matrix)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        weights, parts = v.flatten(), []
        for matrix, parameters in self.matrices:
            columns = torch.split(weights @ matrix, [as_real(p).numel() for p in parameters])
            parts += [(p, in_shape_of(p, part)) for p, part in zip(parameters, columns, strict=True)]
        return parts

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        for matrix, parameters in self.matrices:
            parts = torch.split(matrix, [as_real(p).numel() for p in parameters], 1)
            for p, columns in zip(parameters, parts, strict=True):
                if p is parameter:
                    return cut(columns.view(*self.rows, *as_real(p).shape), part)
        raise KeyError(parameter)

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        products = [
            matrix @ torch.cat([as_real(direction[p]).to(self.dtype).reshape(-1) for p in parameters])
            for matrix, parameters in self.matrices
        ]
        return summed(products).view(self.rows)

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        parameters, parts = zip(*self.transposed(v), strict=True)
        torch._foreach_add_(list(parameters), list(parts), alpha=alpha)


def dense_blocks(parameters: Sequence[Tensor], jacobian: Sequence[Tensor]) -> list[DenseBlock]:
    """One block for each dtype among the parameters; rows (o, n, *shape) of complex ones are complex."""
    by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for parameter, rows in zip(parameters, jacobian, strict=True):
        dtype = as_real(parameter).dtype
        by_dtype.setdefault(dtype, []).append((parameter, as_real(rows).to(dtype)))
    return [DenseBlock([p for p, _ in pairs], [rows for _, rows in pairs]) for pairs in by_dtype.values()]
