"""The methods that a suite can compare, by name, behind one protocol: a step on a batch."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import BaseModel, Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from ggn_core import GGN, Armijo, LevenbergMarquardt

from .errors import UserError
from .frozen import Frozen
from .plugins import EXPECTED, OwnCode, accepts, load
from .plugins import METHODS as OWN_METHODS

__all__ = [
    "METHODS", "AdamSettings", "GgnSettings", "Method", "MethodConfig", "SgdSettings", "make_method", "with_rate",
]  # fmt: skip

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Method(Protocol):
    """Trains a model batch by batch.

    One with ``state_dict`` and ``load_state_dict``, as torch's optimizers have them, is gone on with where a long
    training was killed; without them the training starts over.
    """

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Updates the model on one batch, inputs (b, d) and targets (b, o)."""


class _Settings(Frozen):
    """What every built-in method has.

    Attributes:
        name: The method's.
    """

    # Settings that a suite need not know of: told and hashed only where they differ from their default, so that a
    # trial that does without them is the trial that it was before they could be given.
    EXTRAS: ClassVar[frozenset[str]] = frozenset()

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
        fields = type(self).model_fields
        unset = {key for key in self.EXTRAS if getattr(self, key) == fields[key].default}
        return self.model_dump(mode="json", exclude=unset)


class GgnSettings(_Settings):
    """Gram-Gauss-Newton. The paper's λ is 1/lr and its α is damping/lr.

    Each setting is that of ``ggn_core.GGN``, with its default.

    Attributes:
        lr: Step length; 1 is the full Gauss-Newton step.
        damping: Added to the Gram matrix's diagonal: to sums over the batch, not to means.
        momentum: SPRING's, in [0, 1).
        weight_decay: Decoupled, as AdamW's: a step also multiplies the weights by 1 − lr · weight_decay.
        max_step_norm: Longest step ‖lr Δ‖, weight decay apart; null for no limit.
        solver: "cholesky" assembles the Gram matrix, "cg" only multiplies by it, "auto" chooses by size.
        search: What decides about a step's length, damping and acceptance: "armijo", "levenberg_marquardt", each with
            the library's own constants, or null: every step is taken in full.
    """

    EXTRAS: ClassVar[frozenset[str]] = frozenset({"momentum", "weight_decay", "max_step_norm", "solver", "search"})

    name: Literal["ggn"] = "ggn"
    lr: Positive = 1.0
    damping: NonNegative = 0.3
    momentum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    max_step_norm: Positive | None = None
    solver: Literal["auto", "cholesky", "cg"] = "auto"
    search: Literal["armijo", "levenberg_marquardt"] | None = None

    @model_validator(mode="after")
    def _damped_where_needed(self) -> Self:
        if self.damping == 0 and self.search == "levenberg_marquardt":
            raise ValueError("search 'levenberg_marquardt' multiplies the damping, which must be above 0")
        if self.damping == 0 and self.solver == "cg":
            raise ValueError("solver 'cg' needs a damping above 0")
        return self


class SgdSettings(_Settings):
    """Stochastic gradient descent on the mean squared error, with Polyak momentum: ``torch.optim.SGD``.

    Attributes:
        lr: Learning rate.
        momentum: In [0, 1).
        weight_decay: Times the weights, added to the gradient before momentum.
    """

    EXTRAS: ClassVar[frozenset[str]] = frozenset({"weight_decay"})

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.01
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0


class AdamSettings(_Settings):
    """Adam on the mean squared error: ``torch.optim.Adam``, or ``AdamW`` where weights decay.

    Attributes:
        lr: Learning rate.
        beta1: Of the running mean of gradients, in [0, 1).
        beta2: Of the running mean of their squares, in [0, 1).
        weight_decay: Decoupled, as GGN's: a step also multiplies the weights by 1 − lr · weight_decay.
    """

    EXTRAS: ClassVar[frozenset[str]] = frozenset({"weight_decay"})

    name: Literal["adam"] = "adam"
    lr: Positive = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    weight_decay: NonNegative = 0.0


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


SEARCHES: dict[str, type[Armijo] | type[LevenbergMarquardt]] = {
    "armijo": Armijo,
    "levenberg_marquardt": LevenbergMarquardt,
}


class _Optimized:
    """A method whose state is that of its optimizer."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        self.model = model
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


class _GaussNewton(_Optimized):
    def step(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.step(lambda: self.model(inputs) - targets)


class _FirstOrder(_Optimized):
    """Any torch optimizer on the mean squared error."""

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class _ClosureDriven(_Optimized):
    """A torch optimizer that evaluates the mean squared error itself, as often as it likes."""

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = nn.functional.mse_loss(self.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]


def _ggn(model: nn.Module, settings: GgnSettings) -> Method:
    optimizer = GGN(
        model,
        lr=settings.lr,
        damping=settings.damping,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        max_step_norm=settings.max_step_norm,
        solver=settings.solver,
        search=None if settings.search is None else SEARCHES[settings.search](),
    )
    return _GaussNewton(model, optimizer)


def _sgd(model: nn.Module, settings: SgdSettings) -> Method:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    return _FirstOrder(model, optimizer)


def _adam(model: nn.Module, settings: AdamSettings) -> Method:
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        decoupled_weight_decay=True,
        fused=True,
    )
    return _FirstOrder(model, optimizer)


# Name -> settings model and factory.
METHODS: dict[str, tuple[type[BaseModel], Callable[[nn.Module, Any], Method]]] = {
    "ggn": (GgnSettings, _ggn),
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
