"""The generic rule: row r of the Jacobian is the gradient of residual r, by vectorised backward passes.

It asks nothing of the layers, not even that samples be independent, and costs n·o backward passes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backward import in_portions
from .base import Rows
from .dense import DenseBlock, dense_blocks

__all__ = ["generic_blocks"]


def generic_blocks(residuals: Tensor, parameters: Sequence[Tensor], rows: Rows, vectorise: bool) -> list[DenseBlock]:
    """The blocks of ``parameters``; the graph of ``residuals`` is kept."""
    # One cotangent a residual, output-major: (n o, n o) -> (n, o, ...) -> (o, n, ...) -> (o n, ...)
    identity = torch.eye(rows.total, dtype=residuals.dtype, device=residuals.device)
    basis = identity.view(rows.samples, rows.outputs, -1).transpose(0, 1).reshape(-1, *residuals.shape)
    gradients = in_portions(residuals, parameters, basis, vectorise)
    jacobian = [torch.unflatten(gradient, 0, (rows.outputs, rows.samples)) for gradient in gradients]
    return dense_blocks(parameters, jacobian)
