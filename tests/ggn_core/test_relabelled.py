"""Weights that are entries of a parameter have blocks of their own; cases.py holds more of them."""

from collections.abc import Callable, Sequence

import pytest
import torch
from architectures.computed import NTK, OneVector, Overlapping, Spline, Stack
from compared import flat, relative_error
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ggn_core import GGN, explain, gram
from ggn_core.capture import named_trainable
from ggn_core.linearizer import Linearizer
from ggn_core.reference import dense_gram, dense_jacobian, dense_step


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


class Weighted(nn.Module):
    """A linear layer whose weight a function makes of a parameter."""

    def __init__(self, make: Callable[[Tensor], Tensor], *shape: int):
        super().__init__()
        self.make, self.parameter = make, nn.Parameter(torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.make(self.parameter)).tanh()


class Several(nn.Module):
    """Square layers whose weights are taken from one parameter."""

    def __init__(self, takes: Sequence[Callable[[Tensor], Tensor]], *shape: int):
        super().__init__()
        self.takes, self.parameter = takes, nn.Parameter(torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        for take in self.takes:
            x = nn.functional.linear(x, take(self.parameter)).tanh()
        return x


def _rules(model: nn.Module, inputs: Tensor) -> dict[str, set[str]]:
    rules: dict[str, set[str]] = {}
    for share in explain(model, inputs).shares:
        for name in share.parameters:
            rules.setdefault(name, set()).add(share.rule)
    return rules


EXPLICIT, VECTORS = {"explicit rows"}, {"product of two Grams"}


@pytest.mark.parametrize(
    ("model", "shape", "rules"),
    [
        (NTK(3), (3, 4), {"layer.weight": {"materialized"}, "head.weight": VECTORS, "conv.weight": EXPLICIT}),
        (Spline(3), (4,), {"first": VECTORS, "second": VECTORS}),
        (Stack(3), (4,), {"weights": VECTORS, "tables": {"look-ups"}, "biases": EXPLICIT}),
        (OneVector(3), (4,), {"vector": VECTORS | EXPLICIT}),  # the latter of the biases
        (Overlapping(3), (4,), {"rows": EXPLICIT, "stack": EXPLICIT}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_serves_them(model: nn.Module, shape: tuple[int, ...], rules: dict[str, set[str]]) -> None:
    found = _rules(model, torch.randn(7, *shape))
    assert {name: found[name] for name in rules} == rules


PARTS = {
    "negative": (lambda w: -w, (3, 4)),
    "half": (lambda w: w / 2, (3, 4)),
    "number first": (lambda w: 0.5 * w, (3, 4)),
    "by a tensor": (lambda w: torch.tensor(3.0) * w, (3, 4)),
    "by a tensor on the right": (lambda w: (w * torch.tensor(3.0)).contiguous(), (3, 4)),
    "several numbers": (lambda w: -(w * 3 / 2).view(3, 4) * 5, (12,)),
    "every other row": (lambda w: w[1::2], (6, 4)),
    "from the end": (lambda w: w[-3:], (6, 4)),
    "in the middle": (lambda w: w[:, 1:5], (3, 7)),
    "one of a split": (lambda w: w.split([2, 3, 1])[1], (6, 4)),
    "one of a chunk": (lambda w: w.chunk(2)[1], (6, 4)),
    "one of several": (lambda w: w.unbind(1)[-1], (3, 2, 4)),
    "permuted": (lambda w: w.permute(2, 0, 1).reshape(4, -1), (2, 3, 4)),
    "moved and copied": (lambda w: w.movedim(0, 2).clone().mT.squeeze(1), (1, 4, 3)),
}


@pytest.mark.parametrize("name", PARTS)
def test_all_ways_to_take_entries(name: str) -> None:
    make, shape = PARTS[name]
    model = Weighted(make, *shape).double()
    x = torch.randn(6, make(model.parameter).shape[1]).double()
    assert _rules(model, x) == {"parameter": VECTORS}
    assert relative_error(gram(model, x), dense_gram(model, x)) < 1e-12
    y = torch.randn_like(model(x).detach())
    before, change = flat(model), dense_step(model, x, y, lr=0.7, damping=0.3)
    GGN(model, lr=0.7, damping=0.3).step(lambda: model(x) - y)
    assert relative_error(flat(model) - before, change) < 1e-12
    outputs, names = model(x), named_trainable(model)
    with torch.no_grad():
        jacobian, dense = Linearizer()(outputs, names), dense_jacobian(model, x)
        u = torch.randn_like(model.parameter)
        assert relative_error(jacobian.product({model.parameter: u}), dense @ u.flatten()) < 1e-12
        (block,) = jacobian.blocks
        rows = torch.unflatten(dense, 1, u.shape).unflatten(0, (6, -1)).transpose(0, 1)  # (o, n, *shape)
        for part in (slice(None), slice(1, 2)):
            torch.testing.assert_close(block.explicit_rows(model.parameter, part), rows[:, :, part])


@pytest.mark.parametrize(
    "make",
    [
        lambda w: 0 * w,
        lambda w: torch.ones(3, 4).to(w) / w[0, 0],
        lambda w: torch.ones(()) * w[0, 0] / w,
        lambda w: w * torch.arange(4.0),  # each entry by a number of its own
        lambda w: w.expand(3, 4),  # entries taken several times
        lambda w: w[[0, 0, 0]],
        lambda w: w.repeat(3, 1),
        lambda w: w.exp().expand(3, 4),
    ],
    ids=[
        "times zero",
        "divisor",
        "quotient",
        "times several",
        "expanded",
        "indexed",
        "repeated",
        "a function",
    ],
)
def test_what_is_more_than_entries_has_explicit_rows(make: Callable[[Tensor], Tensor]) -> None:
    model = Weighted(make, 1, 4).double()
    x = torch.randn(6, 4).double()
    assert _rules(model, x) == {"parameter": EXPLICIT}
    expected = dense_gram(model, x)
    assert float((gram(model, x) - expected).norm()) <= 1e-12 * float(expected.norm())


@pytest.mark.parametrize(
    ("takes", "apart"),
    [
        ((lambda w: w[0], lambda w: w[2]), True),
        ((lambda w: w[0], lambda w: w[-3]), False),  # the same
        ((lambda w: w[0], lambda w: w[:, 1]), False),  # rows and columns meet
        ((lambda w: w[:2].flatten(0, 1)[:3], lambda w: w[2]), True),
        ((lambda w: w[:2].flatten(0, 1)[:3], lambda w: w[1:].flatten(0, 1)[:3]), False),
        ((lambda w: w[0], lambda w: w[1:].flatten(0, 1)[3:]), True),
        ((lambda w: w[:-1][1], lambda w: w[-1:][0]), True),
        ((lambda w: w.view(9, 3)[:3], lambda w: w.view(9, 3)[3:6]), False),  # two views: not known, if true
    ],
)
def test_entries_are_taken_apart(takes: tuple[Callable[[Tensor], Tensor], ...], apart: bool) -> None:
    model, x = Several(takes, 3, 3, 3).double(), torch.randn(6, 3).double()
    assert (_rules(model, x)["parameter"] == VECTORS) == apart
    assert relative_error(gram(model, x), dense_gram(model, x)) < 1e-12


def test_a_parameter_that_is_used_as_it_is_too_has_explicit_rows() -> None:
    model, x = Several((lambda w: w, lambda w: w.T), 3, 3).double(), torch.randn(6, 3).double()
    assert _rules(model, x) == {"parameter": {"materialized"}}  # the transpose is no computed tensor
    model = Several((lambda w: w, lambda w: 2 * w), 3, 3).double()
    assert _rules(model, x) == {"parameter": EXPLICIT}
    assert relative_error(gram(model, x), dense_gram(model, x)) < 1e-12


class TiedScale(nn.Module):
    """A weight times a number that another parameter gives, without a gradient."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.layer, self.weight = nn.Linear(1, 1, bias=False), nn.Parameter(torch.ones(1, 1))
        nn.init.ones_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "checkpoint":
            result: Tensor = checkpoint(self._scaled, self.layer(x), use_reentrant=False)
            return result
        return self._scaled(self.layer(x))

    def _scaled(self, h: Tensor) -> Tensor:
        number = self.layer.weight.data[0, 0] if self.how == "data" else self.layer.weight[0, 0].detach()
        return nn.functional.linear(h, self.weight * (number.abs() if self.how == "checkpoint" else number))


@pytest.mark.parametrize("row_memory_gib", [0.0, 2.0])
@pytest.mark.parametrize("how", ["detach", "data", "checkpoint"])
def test_nothing_has_changed_yet_when_the_graph_is_read(how: str, row_memory_gib: float) -> None:
    """By hand: both rows are x, the residuals −2x, so that each weight moves by 2 xᵀ(2 x xᵀ + 1)⁻¹ x = 10/11."""
    model, x = TiedScale(how).double(), torch.tensor([[1.0], [2.0]]).double()
    optimizer = GGN(model, lr=1.0, damping=1.0, row_memory_gib=row_memory_gib)
    optimizer.step(lambda: model(x) - 3 * x)
    torch.testing.assert_close(flat(model), torch.full((2,), 21 / 11).double())


@pytest.mark.parametrize("settings", [{"momentum": 0.5}, {"max_step_norm": 1e9, "momentum": 0.5}])
def test_entries_in_two_precisions(settings: dict[str, float]) -> None:
    class TwoPrecisions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            wide = (self.weights[0] * torch.tensor(2.0, dtype=torch.float64)).view(1, 1)
            narrow = self.weights[1].view(1, 1)
            return nn.functional.linear(nn.functional.linear(x.double(), wide).float(), narrow)

    x, changed = torch.tensor([[1.0], [2.0]]), []
    for chosen in ({}, settings):  # of a first step the momentum changes nothing
        model = TwoPrecisions()
        GGN(model, lr=1.0, damping=1.0, **chosen).step(lambda: model(x) - 3 * x)  # noqa: B023
        changed.append(model.weights.detach())
    torch.testing.assert_close(changed[1], changed[0])
    assert bool((changed[0] != 1).all())
