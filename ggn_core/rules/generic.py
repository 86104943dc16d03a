"""The rule for every other use of a parameter: the rows of its Jacobian, by vectorised backward passes.

It asks nothing of the layer, not even that samples be independent: row r is the gradient of residual r. It costs
n·o backward passes (in vectorised chunks) and stores the rows of the parameters it serves.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pullback import pull_back
from .base import Rows

__all__ = ["DenseBlock", "dense_block"]

# Rows carried through one vectorised backward pass: more use more memory, fewer leave the cores idle.
ROWS_AT_ONCE = 64


class DenseBlock:
    """Explicit Jacobian rows of some parameters.

    Args:
        jacobian: For each parameter, its rows (o, n, numel).
        parameters: The parameters.
    """

    def __init__(self, jacobian: Sequence[Tensor], parameters: Sequence[Tensor]):
        self.jacobian = jacobian
        self.parameters = parameters

    def add_gram_(self, gram: Tensor) -> None:
        for rows in self.jacobian:
            flat = rows.flatten(0, 1)  # (o, n, m) -> (o n, m)
            gram.view(flat.shape[0], flat.shape[0]).addmm_(flat, flat.T)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [
            (p, (v.flatten() @ rows.flatten(0, 1)).view(p.shape))
            for p, rows in zip(self.parameters, self.jacobian, strict=True)
        ]

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        for parameter, part in self.transposed(v):
            parameter.add_(part, alpha=alpha)


def dense_block(residuals: Tensor, parameters: Sequence[Tensor], rows: Rows) -> DenseBlock:
    """Computes the Jacobian rows of ``parameters``; the graph of ``residuals`` is kept."""
    # One cotangent a residual, output-major: (n o, n o) -> (n, o, ...) -> (o, n, ...) -> (o n, ...)
    identity = torch.eye(rows.total, dtype=residuals.dtype, device=residuals.device)
    basis = identity.view(rows.samples, rows.outputs, -1).transpose(0, 1).reshape(-1, *residuals.shape)
    chunks = [pull_back(residuals, parameters, chunk) for chunk in torch.split(basis, ROWS_AT_ONCE)]
    jacobian = [
        torch.cat(parts).view(rows.outputs, rows.samples, parameter.numel())
        for parts, parameter in zip(zip(*chunks, strict=True), parameters, strict=True)
    ]
    return DenseBlock(jacobian, parameters)
