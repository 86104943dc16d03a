"""What the core's tests compare: a model as one vector, and how far two tensors are apart."""

import torch
from torch import Tensor, nn

from ggn_core.rules.base import as_real

__all__ = ["flat", "relative_error"]


def flat(model: nn.Module) -> Tensor:
    """The trainable parameters, end to end; complex ones as pairs of real ones."""
    return torch.cat([as_real(p.detach()).reshape(-1) for p in model.parameters() if p.requires_grad])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return float((found - expected).norm() / expected.norm())
