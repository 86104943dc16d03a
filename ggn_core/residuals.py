"""What is asked of residuals before anything is computed from them."""

import torch
from torch import Tensor

from .errors import NonFiniteError, ResidualsError
from .rules import Rows

__all__ = ["as_rows", "check_finite"]


def as_rows(residuals: Tensor) -> Rows:
    """Checks the residuals and reads their shape: (n, ...) has n samples, a scalar has one."""
    if not isinstance(residuals, Tensor):
        raise ResidualsError(f"the residuals must be a tensor, not {type(residuals).__name__}")
    if not residuals.is_floating_point():
        raise ResidualsError(f"the residuals must be real floating point, not {residuals.dtype}")
    if residuals.grad_fn is None:
        raise ResidualsError(
            "the residuals carry no autograd graph: compute them from the model, with gradients enabled and no detach()"
        )
    if residuals.numel() == 0:
        raise ResidualsError(f"the residuals are empty, shape {tuple(residuals.shape)}: an empty batch has no step")
    samples = residuals.shape[0] if residuals.dim() else 1
    return Rows(samples, residuals.numel() // samples)


def check_finite(residuals: Tensor) -> None:
    """Raises NonFiniteError if there is a NaN or an infinity, both of which come through the largest magnitude."""
    if not float(torch.linalg.vector_norm(residuals.detach(), torch.inf)) < torch.inf:
        raise NonFiniteError(f"the residuals hold NaN or infinity, shape {tuple(residuals.shape)}")
