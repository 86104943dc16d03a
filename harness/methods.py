"""The methods that a suite can compare, by name, behind one protocol: a step on a batch."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ggn_core import GGN

from .frozen import Frozen

__all__ = ["METHODS", "AdamSettings", "GgnSettings", "Method", "MethodConfig", "SgdSettings", "make_method"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Method(Protocol):
    """Trains a model batch by batch."""

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Updates the model on one batch, inputs (b, d) and targets (b, o)."""


class GgnSettings(Frozen):
    """Gram-Gauss-Newton. The paper's λ is 1/lr and its α is damping/lr."""

    name: Literal["ggn"] = "ggn"
    lr: Positive = 1.0
    damping: NonNegative = 0.3


class SgdSettings(Frozen):
    """Stochastic gradient descent on the mean squared error, with Polyak momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class AdamSettings(Frozen):
    """Adam on the mean squared error."""

    name: Literal["adam"] = "adam"
    lr: Positive = 0.001
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999


MethodConfig = Annotated[GgnSettings | SgdSettings | AdamSettings, Field(discriminator="name")]


class _GaussNewton:
    def __init__(self, model: nn.Module, settings: GgnSettings):
        self.model = model
        self.optimizer = GGN(model, lr=settings.lr, damping=settings.damping)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.step(lambda: self.model(inputs) - targets)


class _FirstOrder:
    """Any torch optimizer on the mean squared error."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.model = model
        self.optimizer = optimizer

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def _sgd(model: nn.Module, settings: SgdSettings) -> Method:
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum, fused=True)
    return _FirstOrder(model, optimizer)


def _adam(model: nn.Module, settings: AdamSettings) -> Method:
    betas = (settings.beta1, settings.beta2)
    return _FirstOrder(model, torch.optim.Adam(model.parameters(), lr=settings.lr, betas=betas, fused=True))


# Name -> settings model and factory.
METHODS: dict[str, tuple[type[BaseModel], Callable[[nn.Module, Any], Method]]] = {
    "ggn": (GgnSettings, _GaussNewton),
    "sgd": (SgdSettings, _sgd),
    "adam": (AdamSettings, _adam),
}


def make_method(model: nn.Module, settings: GgnSettings | SgdSettings | AdamSettings) -> Method:
    """A method with these settings, ready to train ``model``."""
    return METHODS[settings.name][1](model, settings)
