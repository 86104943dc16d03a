"""Weights of samples: the step of weighted least squares, Σ_i ω_i ‖r_i‖², in which weight 2 is the sample twice.

With S = diag(√ω), residuals and Jacobian become S r and S J; everything else stays.
"""

import torch
from torch import Tensor

from .errors import SettingError
from .rules import Rows

__all__ = ["check_roots", "mean_square", "root_weights"]


def root_weights(sample_weights: Tensor, rows: Rows, like: Tensor, *, by_values: bool = True) -> Tensor:
    """√ω for every residual, of shape (n·o,).

    Args:
        sample_weights: (n,), finite, ≥ 0, not all zero.
        rows: The shape of the residuals.
        like: Gives dtype and device.
        by_values: Whether the weights' range is looked at.

    Raises:
        SettingError: The weights are something else.
    """
    if not isinstance(sample_weights, Tensor):
        raise SettingError(f"sample_weights must be a tensor, not {type(sample_weights).__name__}")
    if sample_weights.shape != (rows.samples,):
        raise SettingError(
            f"sample_weights must have one entry a sample, shape ({rows.samples},), not {tuple(sample_weights.shape)}"
        )
    roots = sample_weights.detach().to(like).sqrt()
    if by_values:
        check_roots(roots)
    return roots.repeat_interleave(rows.outputs)  # (n,) -> (n·o,)


def check_roots(roots: Tensor) -> None:
    """Raises SettingError if weights with these roots are out of range; of a negative number the root is NaN."""
    if not bool(torch.isfinite(roots).all() & (roots > 0).any()):
        raise SettingError("sample_weights must be finite, ≥ 0 and not all zero")


def mean_square(residuals: Tensor, roots: Tensor | None) -> Tensor:
    """Σ ω r² / Σ ω, for residuals (n·o,) that the roots have multiplied already; the plain mean without weights."""
    return residuals.dot(residuals) / (len(residuals) if roots is None else roots.square().sum())
