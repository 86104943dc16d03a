"""What the core's tests compare: a model as one vector, and how far two tensors are apart."""

import torch
from torch import Tensor, nn

__all__ = ["flat", "relative_error"]


def flat(model: nn.Module) -> Tensor:
    """The trainable parameters, end to end."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return float((found - expected).norm() / expected.norm())
