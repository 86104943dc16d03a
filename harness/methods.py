"""The methods that a suite can compare, by name, behind one protocol: a step on a batch."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import BaseModel, Discriminator, Field, Tag
from torch import Tensor, nn

from ggn_core import GGN

from .errors import UserError
from .frozen import Frozen
from .plugins import EXPECTED, OwnCode, accepts, load
from .plugins import METHODS as OWN_METHODS

__all__ = [
    "METHODS", "AdamSettings", "GgnSettings", "Method", "MethodConfig", "SgdSettings", "make_method", "with_rate",
]  # fmt: skip

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Method(Protocol):
    """Trains a model batch by batch."""

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Updates the model on one batch, inputs (b, d) and targets (b, o)."""


class _Settings(Frozen):
    """What every built-in method has."""

    name: str

    @property
    def label(self) -> str:
        """What the method is called where no room is for more."""
        return self.name

    @property
    def settings(self) -> dict[str, Any]:
        """All but the name."""
        return self.model_dump(exclude={"name"})

    def identity(self) -> dict[str, Any]:
        """What tells this configuration from others: equal identities mean equal methods."""
        return self.model_dump(mode="json")


class GgnSettings(_Settings):
    """Gram-Gauss-Newton. The paper's λ is 1/lr and its α is damping/lr."""

    name: Literal["ggn"] = "ggn"
    lr: Positive = 1.0
    damping: NonNegative = 0.3


class SgdSettings(_Settings):
    """Stochastic gradient descent on the mean squared error, with Polyak momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class AdamSettings(_Settings):
    """Adam on the mean squared error."""

    name: Literal["adam"] = "adam"
    lr: Positive = 0.001
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999


def _kind(value: Any) -> str:
    """The name of a built-in method, or "own" for the user's."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return name if name in METHODS else "own"


MethodConfig = Annotated[
    Annotated[GgnSettings, Tag("ggn")]
    | Annotated[SgdSettings, Tag("sgd")]
    | Annotated[AdamSettings, Tag("adam")]
    | Annotated[OwnCode, Tag("own")],
    Discriminator(_kind),
]


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


class _ClosureDriven:
    """A torch optimizer that evaluates the mean squared error itself, as often as it likes."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.model = model
        self.optimizer = optimizer

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = nn.functional.mse_loss(self.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]


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


def make_method(model: nn.Module, settings: MethodConfig) -> Method:
    """A method with these settings, ready to train ``model``.

    Raises:
        UserError: The user's own code cannot be found, has changed, or makes nothing that takes steps.
    """
    if isinstance(settings, OwnCode):
        return _own(model, settings)
    return METHODS[settings.name][1](model, settings)


def with_rate(settings: MethodConfig, lr: float) -> MethodConfig:
    """The same method with another learning rate; own code that takes none stays as it is."""
    if isinstance(settings, OwnCode) and not accepts(settings.plugin, OWN_METHODS, "lr"):
        return settings
    return settings.model_copy(update={"lr": lr})


def _own(model: nn.Module, settings: OwnCode) -> Method:
    factory = load(settings.plugin)
    takes = next(iter(inspect.signature(factory).parameters))
    made = factory(model.parameters() if takes.startswith("param") else model, **settings.settings)
    if isinstance(made, torch.optim.Optimizer) and (needed := _needed_by_step(made)) < 2:
        return _ClosureDriven(model, made) if needed else _FirstOrder(model, made)
    if not callable(getattr(made, "step", None)):
        raise UserError(f"'{settings.name}': made a {type(made).__name__} without step; {EXPECTED[OWN_METHODS]}")
    return made  # type: ignore[no-any-return]


def _needed_by_step(optimizer: torch.optim.Optimizer) -> int:
    """How many parameters of ``step`` have no default: one in torch.optim.LBFGS, none in most others."""
    parameters = inspect.signature(optimizer.step).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
