"""The Gram matrix of a model on a batch, also known as the empirical neural tangent kernel."""

import torch
from torch import Tensor, nn

from .capture import something_to_train
from .linearizer import Linearizer
from .model import call
from .precision import FullPrecision
from .settings import ROW_MEMORY_GIB

__all__ = ["gram"]


def gram(model: nn.Module, inputs: object) -> Tensor:
    """Computes G = J Jᵀ exactly, with J the Jacobian of the model's outputs with respect to its trainable parameters.

    J itself is never formed for the layers that a structured rule serves. Everything else goes through a generic rule,
    slower and exact.

    Args:
        model: Any module that returns a tensor of shape (n, ...): n samples.
        inputs: What the model takes: a tensor, a tuple of arguments, or a dict of named ones.

    Returns:
        Symmetric, shape (n·o, n·o), with rows in the order of ``model(inputs).reshape(-1)``, in the parameters'
        dtype: float32 under autocast, too.

    Raises:
        ResidualsError: The output is no floating-point tensor, is empty, or does not depend on the parameters.
        NonFiniteError: The output holds NaN or infinity.
        UnsupportedError: A trainable parameter does not act on the output, or acts out of sight of autograd.
    """
    parameters = something_to_train(model)
    with torch.enable_grad():
        outputs = call(model, inputs)
    with torch.no_grad(), FullPrecision(outputs.device.type):
        return Linearizer(ROW_MEMORY_GIB * 2**30, once=True)(outputs, parameters).gram()
