"""The oracle: dense Jacobian, Gram matrix and step, slow and plain, by definition. Every test compares with it."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from .capture import named_trainable
from .model import call
from .rules.base import as_real

__all__ = ["dense_gram", "dense_jacobian", "dense_step"]


def dense_jacobian(model: nn.Module, inputs: object) -> Tensor:
    """J of shape (n·o, P): outputs in the order of ``model(inputs).reshape(-1)``, parameters in that of
    ``model.named_parameters()``, trainable ones only, complex ones as pairs of real ones.
    """
    # A copy: functional_call does not put back the parameters of a module that the model holds twice (torch 2.13).
    model = copy.deepcopy(model)
    trainable = {name: p for p, name in named_trainable(model).items()}

    def outputs(p: dict[str, Tensor]) -> Tensor:
        values = {name: torch.view_as_complex(v) if trainable[name].is_complex() else v for name, v in p.items()}
        result: Tensor = functional_call(model, values, *_arguments(inputs))
        return result.reshape(-1)

    jacobian = jacrev(outputs)({name: as_real(p.detach()) for name, p in trainable.items()})  # {name: (n·o, *shape)}
    return torch.cat([rows.reshape(rows.shape[0], -1) for rows in jacobian.values()], 1)


def dense_gram(model: nn.Module, inputs: object) -> Tensor:
    """G = J Jᵀ, of shape (n·o, n·o)."""
    jacobian = dense_jacobian(model, inputs)
    return jacobian @ jacobian.T


def dense_step(model: nn.Module, inputs: object, targets: Tensor, lr: float, damping: float) -> Tensor:
    """The change of the parameters, −lr Jᵀ (J Jᵀ + damping·I)⁻¹ (f − y), as one vector (P,)."""
    jacobian = dense_jacobian(model, inputs)
    with torch.no_grad():
        residuals = (call(model, inputs) - targets).reshape(-1)
    damped = jacobian @ jacobian.T + damping * torch.eye(len(residuals)).to(jacobian)
    change: Tensor = -lr * jacobian.T @ torch.linalg.solve(damped, residuals)
    return change


def _arguments(inputs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """Inputs as ``functional_call`` wants them."""
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}
