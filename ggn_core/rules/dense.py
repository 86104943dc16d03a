"""Jacobian blocks with explicit rows: for parameters with small gradients, or without another rule."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pullback import pull_back
from .base import Rows

__all__ = ["DenseBlock", "pulled_back"]

# Rows carried through one vectorised backward pass: more use more memory, fewer leave the cores idle.
ROWS_AT_ONCE = 64


class DenseBlock:
    """Explicit Jacobian rows of some parameters.

    Args:
        parameters: The parameters.
        jacobian: For each parameter, its rows (o, n, *shape).
    """

    def __init__(self, parameters: Sequence[Tensor], jacobian: Sequence[Tensor]):
        self.parameters = parameters
        self.shapes = [p.shape for p in parameters]
        # One matrix (o n, m) for all: one product for the Gram, one for the transpose.
        rows = [part.flatten(2).flatten(0, 1) if part.dim() > 2 else part.reshape(-1, 1) for part in jacobian]
        self.matrix = torch.cat(rows, 1) if len(rows) > 1 else rows[0]

    def add_gram_(self, gram: Tensor) -> None:
        total = self.matrix.shape[0]
        gram.view(total, total).addmm_(self.matrix, self.matrix.T)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        flat = v.flatten() @ self.matrix
        parts = torch.split(flat, [shape.numel() for shape in self.shapes])
        return [(p, part.view(shape)) for p, part, shape in zip(self.parameters, parts, self.shapes, strict=True)]

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        parameters, parts = zip(*self.transposed(v), strict=True)
        torch._foreach_add_(list(parameters), list(parts), alpha=alpha)


def pulled_back(residuals: Tensor, parameters: Sequence[Tensor], rows: Rows) -> DenseBlock:
    """The generic rule: row r of the Jacobian is the gradient of residual r, by vectorised backward passes.

    It asks nothing of the layers, not even that samples be independent, and costs n·o backward passes. The graph of
    ``residuals`` is kept.
    """
    # One cotangent a residual, output-major: (n o, n o) -> (n, o, ...) -> (o, n, ...) -> (o n, ...)
    identity = torch.eye(rows.total, dtype=residuals.dtype, device=residuals.device)
    basis = identity.view(rows.samples, rows.outputs, -1).transpose(0, 1).reshape(-1, *residuals.shape)
    chunks = [pull_back(residuals, parameters, chunk) for chunk in torch.split(basis, ROWS_AT_ONCE)]
    jacobian = [
        torch.unflatten(torch.cat(parts), 0, (rows.outputs, rows.samples)) for parts in zip(*chunks, strict=True)
    ]
    return DenseBlock(parameters, jacobian)
