"""GGN's step written out for one network: as little as any code can do that takes it, and all that this code can do."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["step_by_hand"]


def step_by_hand(model: nn.Sequential, x: Tensor, y: Tensor, lr: float, damping: float) -> Callable[[], None]:
    """A function that takes one step; nothing is checked, found out or reported.

    Args:
        model: Linear layers with biases, and activations; one output.
        x: (n, d).
        y: (n, 1).
        lr: The learning rate.
        damping: > 0.
    """
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    one = x.new_ones(())

    def step() -> None:
        inputs, outputs, a = [], [], x
        for module in model:
            if isinstance(module, nn.Linear):
                inputs.append(a)
                a = module(a)
                outputs.append(a)
            else:
                a = module(a)
        residuals = a - y
        cotangents = torch.autograd.grad(residuals, outputs, torch.ones_like(residuals))
        with torch.no_grad():
            gram = x.new_zeros(len(x), len(x))
            for a, g in zip(inputs, cotangents, strict=True):
                gram.addcmul_(g @ g.T, torch.addmm(one, a, a.T))
            damped = gram.double()
            damped.diagonal().add_(damping)
            factor, _ = torch.linalg.cholesky_ex(damped)
            v = torch.cholesky_solve(residuals.double(), factor).to(x.dtype)
            for layer, a, g in zip(layers, inputs, cotangents, strict=True):
                weighted = g * v
                layer.weight.addmm_(weighted.T, a, alpha=-lr)
                layer.bias.add_(weighted.sum(0), alpha=-lr)

    return step
