"""Jacobian blocks with explicit rows: for parameters with small gradients, or without another rule."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pullback import pull_back
from .base import Rows

__all__ = ["DenseBlock", "dense_blocks", "pulled_back"]

# Rows carried through one vectorised backward pass: more use more memory, fewer leave the cores idle.
ROWS_AT_ONCE = 64


# Below this many entries a parameter's rows are packed together with others': one product instead of many small ones.
# Above, the copy would cost more than it saves.
PACKED_ENTRIES = 1024


class DenseBlock:
    """Explicit Jacobian rows of some parameters.

    Args:
        parameters: The parameters.
        jacobian: For each parameter, its rows (o, n, *shape).
    """

    def __init__(self, parameters: Sequence[Tensor], jacobian: Sequence[Tensor]):
        rows = {
            p: part.reshape(part.shape[0] * part.shape[1], -1) for p, part in zip(parameters, jacobian, strict=True)
        }
        small = [p for p in parameters if p.numel() < PACKED_ENTRIES]
        # Matrices (o n, m), each with the parameters whose columns it holds.
        self.matrices = [(rows[p], [p]) for p in parameters if p.numel() >= PACKED_ENTRIES]
        if small:
            self.matrices.append((torch.cat([rows[p] for p in small], 1), small))

    @property
    def dtype(self) -> torch.dtype:
        return self.matrices[0][0].dtype

    def add_gram_(self, gram: Tensor) -> None:
        total = gram.shape[0] * gram.shape[1]
        for matrix, _ in self.matrices:
            gram.view(total, total).addmm_(matrix, matrix.T)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        weights, parts = v.flatten(), []
        for matrix, parameters in self.matrices:
            columns = torch.split(weights @ matrix, [p.numel() for p in parameters])
            parts += [(p, part.view(p.shape)) for p, part in zip(parameters, columns, strict=True)]
        return parts

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        parameters, parts = zip(*self.transposed(v), strict=True)
        torch._foreach_add_(list(parameters), list(parts), alpha=alpha)


def dense_blocks(parameters: Sequence[Tensor], jacobian: Sequence[Tensor]) -> list[DenseBlock]:
    """One block for each dtype among the parameters."""
    by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for parameter, rows in zip(parameters, jacobian, strict=True):
        by_dtype.setdefault(parameter.dtype, []).append((parameter, rows.to(parameter.dtype)))
    return [DenseBlock([p for p, _ in pairs], [rows for _, rows in pairs]) for pairs in by_dtype.values()]


def pulled_back(residuals: Tensor, parameters: Sequence[Tensor], rows: Rows, vectorise: bool) -> list[DenseBlock]:
    """The generic rule: row r of the Jacobian is the gradient of residual r, by vectorised backward passes.

    It asks nothing of the layers, not even that samples be independent, and costs n·o backward passes. The graph of
    ``residuals`` is kept.
    """
    # One cotangent a residual, output-major: (n o, n o) -> (n, o, ...) -> (o, n, ...) -> (o n, ...)
    identity = torch.eye(rows.total, dtype=residuals.dtype, device=residuals.device)
    basis = identity.view(rows.samples, rows.outputs, -1).transpose(0, 1).reshape(-1, *residuals.shape)
    chunks = [pull_back(residuals, parameters, chunk, vectorise) for chunk in torch.split(basis, ROWS_AT_ONCE)]
    jacobian = [
        torch.unflatten(torch.cat(parts), 0, (rows.outputs, rows.samples)) for parts in zip(*chunks, strict=True)
    ]
    return dense_blocks(parameters, jacobian)
