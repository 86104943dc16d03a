"""What cannot be done exactly is refused, with the reason and the way out; the parameters stay as they were."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ggn_core import GGN, GGNError, NonFiniteError, ResidualsError, SettingError, UnsupportedError, gram


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool):
        super().__init__()
        self.inner, self.head, self.use_reentrant = nn.Linear(3, 4), nn.Linear(4, 1), use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.inner, x.clone().requires_grad_(), use_reentrant=self.use_reentrant))


class SyncBatchNorm(torch.autograd.Function):
    """Of the name of torch's, which asks for several GPUs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Synchronized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return SyncBatchNorm.apply(self.inner(x))


class HiddenInAFunction(nn.Module):
    """A custom function that closes over a parameter instead of taking it as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.hidden = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden

        class Scale(torch.autograd.Function):
            @staticmethod
            def forward(ctx: object, z: Tensor) -> Tensor:
                return z * hidden.detach()

            @staticmethod
            def backward(ctx: object, g: Tensor) -> Tensor:
                return g * hidden.detach()

        return Scale.apply(self.seen(x))


class WithUnused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), ["batch norm", "model.eval()"]),
        (Synchronized, ["samples of all processes", "model.eval()"]),
        (lambda: Checkpointed(use_reentrant=True), ["checkpoint", "use_reentrant=False"]),
        (HiddenInAFunction, ["'hidden'", "requires_grad_(False)"]),
        (WithUnused, ["'spare.weight'", "'spare.bias'", "requires_grad_(False)"]),
    ],
)
def test_unsupported_models(make: Callable[[], nn.Module], words: list[str]) -> None:
    model = make()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(UnsupportedError) as caught:
        GGN(model).step(lambda: model(X))
    assert all(word in str(caught.value) for word in words)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    with pytest.raises(UnsupportedError):
        gram(model, X)


def test_the_ways_out_work() -> None:
    normalized = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    spare = WithUnused()
    spare.spare.requires_grad_(False)
    for model in (normalized, Checkpointed(use_reentrant=False), spare):
        GGN(model).step(lambda model=model: model(X))


@pytest.mark.parametrize(
    ("closure", "words"),
    [
        (lambda model: 3.0, "must be a tensor, not float"),
        (lambda model: None, "must be a tensor, not NoneType"),
        (lambda model: model(X).detach(), "no autograd graph"),
        (lambda model: model(X).argmax(1), "floating point"),
        (lambda model: model(X[:0]), "empty"),
        (lambda model: (model(X) ** 2).mean(), "looks like a loss"),
        (lambda model: torch.complex(model(X), model(X)), "floating point"),
    ],
)
def test_bad_residuals(closure: Callable[[nn.Module], object], words: str) -> None:
    model = _model()
    with pytest.raises(ResidualsError, match=words):
        GGN(model).step(lambda: closure(model))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("closure", [None, 3, torch.zeros(2)])
def test_no_closure(closure: object) -> None:
    with pytest.raises(ResidualsError, match="step takes a function"):
        GGN(_model()).step(closure)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_residuals_leave_the_parameters_alone(bad: float) -> None:
    model = _model()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        GGN(model).step(lambda: model(X) * bad)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_overflowing_cotangents_leave_the_parameters_alone() -> None:
    model = _model()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match="Gram"):
        GGN(model).step(lambda: (model(X) * 1e30) * 1e-30 * 1e25)  # finite residuals, cotangents beyond float32
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": -1.0}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"damping": -0.1}, "damping must be"),
        ({"damping": float("inf")}, "damping must be"),
    ],
)
def test_bad_settings(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        GGN(_model(), **settings)


def test_settings_broken_later_are_caught_at_the_step() -> None:
    model = _model()
    optimizer = GGN(model)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(SettingError, match="lr must be"):
        optimizer.step(lambda: model(X))


def test_parameters_instead_of_a_model() -> None:
    with pytest.raises(SettingError, match="the model itself"):
        GGN(_model().parameters())  # type: ignore[arg-type]


def test_nothing_to_train() -> None:
    with pytest.raises(SettingError, match="requires_grad"):
        GGN(_model().requires_grad_(False))
    with pytest.raises(ResidualsError, match="no trainable parameters"):
        gram(nn.Tanh(), X)


def test_one_base_class_for_all() -> None:
    for error in (NonFiniteError, ResidualsError, SettingError, UnsupportedError):
        assert issubclass(error, GGNError)
