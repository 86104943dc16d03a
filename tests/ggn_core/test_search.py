"""Searches: what they accept, what they leave behind, and that a rejected step leaves nothing."""

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ggn_core import GGN, Armijo, ConjugateGradient, LevenbergMarquardt, ResidualsError, SettingError
from ggn_core.jacobian import Jacobian
from ggn_core.reference import dense_jacobian, dense_step


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def _put(model: nn.Module, flat: Tensor) -> nn.Module:
    twin = copy.deepcopy(model)
    nn.utils.vector_to_parameters(flat, twin.parameters())
    return twin


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def _wild() -> tuple[nn.Module, Tensor, Tensor]:
    """A problem whose full, hardly damped steps overshoot by far."""
    model = _mlp()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    return model, torch.randn(30, 3).double(), torch.randn(30, 1).double()


def _sum_of_squares(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x) - y).detach().square().sum())


def _step(optimizer: GGN, closure: Callable[[], Tensor]) -> None:
    optimizer.step(closure)
    assert optimizer.info is not None


# Armijo


def test_armijo_leaves_a_good_step_whole() -> None:
    model = _mlp()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 1).double()
    before, change = _flat(model), dense_step(model, x, y, lr=0.5, damping=1.0)
    optimizer = GGN(model, lr=0.5, damping=1.0, search=Armijo())
    _step(optimizer, lambda: model(x) - y)
    info = optimizer.info
    assert info is not None
    assert (info.accepted, info.attempts, info.step_length) == (True, 1, 1.0)
    assert torch.allclose(_flat(model) - before, change, rtol=1e-9, atol=1e-13)


def test_armijo_takes_the_first_length_that_meets_its_condition() -> None:
    model, x, y = _wild()
    search = Armijo(decrease=0.3, shrink=0.7)
    optimizer = GGN(model, damping=1e-4, search=search)
    shortened = 0
    last = 1.0
    for _ in range(4):
        start = _flat(model)
        change = dense_step(model, x, y, lr=1.0, damping=1e-4)
        slope = -2 * float((model(x) - y).detach().reshape(-1) @ (dense_jacobian(model, x) @ change))
        loss = _sum_of_squares(model, x, y)
        length = min(1.0, 1.5 * last)
        attempts = 1
        while _sum_of_squares(_put(model, start + length * change), x, y) > loss - 0.3 * length * slope:
            length *= 0.7
            attempts += 1
        _step(optimizer, lambda: model(x) - y)
        info = optimizer.info
        assert info is not None
        assert (info.attempts, info.accepted) == (attempts, True)
        assert math.isclose(info.step_length, length, rel_tol=1e-12)
        assert float((_flat(model) - start - length * change).norm()) < 1e-6 * float((length * change).norm())
        assert optimizer.param_groups[0]["step_length"] == info.step_length
        shortened += attempts > 1
        last = length
    assert shortened >= 1


def test_the_limit_applies_before_the_search() -> None:
    model, x, y = _wild()
    before = _flat(model)
    optimizer = GGN(model, damping=1e-4, max_step_norm=0.01, search=Armijo())
    _step(optimizer, lambda: model(x) - y)
    assert optimizer.info is not None
    assert optimizer.info.accepted
    assert float((_flat(model) - before).norm()) < 0.01 * (1 + 1e-9)
    assert optimizer.param_groups[0]["step_length"] == 1.0


# Levenberg-Marquardt


def test_levenberg_marquardt_by_definition() -> None:
    model, x, y = _wild()
    search = LevenbergMarquardt(increase=10.0, decrease=0.3)
    optimizer = GGN(model, damping=1e-4, search=search)
    damping, rejected = 1e-4, 0
    for _ in range(6):
        start, loss = _flat(model), _sum_of_squares(model, x, y)
        jacobian, r = dense_jacobian(model, x), (model(x) - y).detach().reshape(-1)
        attempts = 0
        while True:
            attempts += 1
            change = dense_step(model, x, y, lr=1.0, damping=damping)
            predicted = loss - float((r + jacobian @ change).square().sum())
            ratio = (loss - _sum_of_squares(_put(model, start + change), x, y)) / predicted
            used = damping
            if ratio > 1e-4:
                damping *= 0.3 if ratio > 0.75 else 10.0 if ratio < 0.25 else 1.0
                break
            damping *= 10.0
        _step(optimizer, lambda: model(x) - y)
        info = optimizer.info
        assert info is not None
        assert info.gain_ratio is not None
        assert (info.accepted, info.attempts) == (True, attempts)
        assert math.isclose(info.gain_ratio, ratio, rel_tol=1e-5)
        assert math.isclose(info.damping, used, rel_tol=1e-12)
        assert math.isclose(optimizer.param_groups[0]["damping"], damping, rel_tol=1e-12)
        assert float((_flat(model) - start - change).norm()) < 1e-6 * float(change.norm())
        rejected += attempts - 1
    assert rejected >= 1


def test_the_gram_matrix_is_assembled_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = _wild()
    calls = []
    honest = Jacobian.lower_gram
    monkeypatch.setattr(Jacobian, "lower_gram", lambda self, workspace: (calls.append(1), honest(self, workspace))[1])
    evaluations = []
    optimizer = GGN(model, damping=1e-4, search=LevenbergMarquardt())
    _step(optimizer, lambda: (evaluations.append(1), model(x) - y)[1])
    assert optimizer.info is not None
    assert optimizer.info.attempts > 1
    assert len(calls) == 1
    assert len(evaluations) == 1 + optimizer.info.attempts


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("search", [Armijo(), LevenbergMarquardt(increase=10.0)])
def test_losses_never_rise(search: Armijo | LevenbergMarquardt, momentum: float) -> None:
    model, x, y = _wild()
    optimizer = GGN(model, damping=1e-4, momentum=momentum, search=search)
    losses = [_sum_of_squares(model, x, y)]
    accepted = 0
    for _ in range(20):
        _step(optimizer, lambda: model(x) - y)
        losses.append(_sum_of_squares(model, x, y))
        assert optimizer.info is not None
        accepted += optimizer.info.accepted
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(losses))
    assert accepted >= 10
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("search", [Armijo(), LevenbergMarquardt(increase=10.0)])
def test_the_matrix_free_solver_searches_alike(search: Armijo | LevenbergMarquardt) -> None:
    """The graph is used again after trial steps, at the parameters it was recorded with."""
    model, x, y = _wild()
    twin = copy.deepcopy(model)
    dense = GGN(model, damping=1e-3, momentum=0.5, weight_decay=0.1, search=search)
    free = GGN(
        twin,
        damping=1e-3,
        momentum=0.5,
        weight_decay=0.1,
        search=search,
        solver=ConjugateGradient(tolerance=1e-13, fallback_rows=0),
    )
    attempts = 0
    for _ in range(5):
        _step(dense, lambda: model(x) - y)
        _step(free, lambda: twin(x) - y)
        assert dense.info is not None
        assert free.info is not None
        assert dense.info.attempts == free.info.attempts
        assert free.info.solver == "cg"
        attempts += free.info.attempts
        assert float((_flat(model) - _flat(twin)).norm()) < 1e-5 * float(_flat(model).norm())
    assert attempts > 5


def test_weights_count_in_the_search() -> None:
    model, x, y = _wild()
    twin = copy.deepcopy(model)
    weights = torch.randint(0, 3, (30,))
    many = torch.arange(30).repeat_interleave(weights)
    weighted = GGN(model, damping=1e-4, search=LevenbergMarquardt())
    repeated = GGN(twin, damping=1e-4, search=LevenbergMarquardt())
    attempts = 0
    for _ in range(3):
        weighted.step(lambda: model(x) - y, sample_weights=weights)
        repeated.step(lambda: twin(x[many]) - y[many])
        assert weighted.info is not None
        assert repeated.info is not None
        assert weighted.info.gain_ratio is not None
        assert repeated.info.gain_ratio is not None
        assert weighted.info.attempts == repeated.info.attempts
        assert math.isclose(weighted.info.gain_ratio, repeated.info.gain_ratio, rel_tol=1e-5)
        attempts += weighted.info.attempts
    assert attempts > 3


# what a step leaves behind


def _rising(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Residuals that grow at every evaluation, whatever the step: nothing can be accepted."""
    calls = [0]

    def closure() -> Tensor:
        calls[0] += 1
        return model(x) + 10.0 ** calls[0]

    return closure


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("search", [Armijo(attempts=3), LevenbergMarquardt(attempts=3)])
def test_a_rejected_step_changes_no_bit(search: Armijo | LevenbergMarquardt, solver: str) -> None:
    model = _mlp()
    x = torch.randn(6, 3).double()
    optimizer = GGN(model, momentum=0.9, weight_decay=0.1, search=search, solver=solver)  # type: ignore[arg-type]
    _step(optimizer, lambda: model(x))
    before, damping = _flat(model), optimizer.param_groups[0]["damping"]
    _step(optimizer, _rising(model, x))
    info = optimizer.info
    assert info is not None
    assert (info.accepted, info.attempts) == (False, 3)
    assert torch.equal(_flat(model), before)
    assert optimizer.param_groups[0]["step_length"] == 1.0
    grown = damping * 4.0**3 if isinstance(search, LevenbergMarquardt) else damping
    assert math.isclose(optimizer.param_groups[0]["damping"], grown)
    assert all("momentum_buffer" not in optimizer.state[p] for p in model.parameters())


def test_steps_into_nowhere_are_rejected() -> None:
    """Residuals that are no numbers beyond a short distance."""
    model = _mlp()
    x = torch.randn(6, 3).double()
    start = _flat(model)

    def closure() -> Tensor:
        far = (_flat(model) - start).norm() > 0.05
        return model(x) - 1 + (math.nan if far else 0.0)

    optimizer = GGN(model, damping=0.1, search=Armijo())
    _step(optimizer, closure)
    assert optimizer.info is not None
    assert optimizer.info.accepted
    assert optimizer.info.attempts > 1
    assert 0 < float((_flat(model) - start).norm()) <= 0.05


@pytest.mark.parametrize("search", [Armijo(), LevenbergMarquardt()])
def test_an_error_at_a_trial_leaves_the_parameters_alone(search: Armijo | LevenbergMarquardt) -> None:
    model = _mlp()
    x = torch.randn(6, 3).double()
    before = _flat(model)
    calls = [0]

    def closure() -> Tensor:
        calls[0] += 1
        if calls[0] > 1:
            raise KeyboardInterrupt
        return model(x)

    with pytest.raises(KeyboardInterrupt):
        GGN(model, search=search).step(closure)
    assert torch.equal(_flat(model), before)
    assert all(p.requires_grad for p in model.parameters())


def test_another_batch_at_a_trial_is_refused() -> None:
    model = _mlp()
    before = _flat(model)
    sizes = iter([6, 5])
    with pytest.raises(ResidualsError, match="the same batch"):
        GGN(model, search=Armijo()).step(lambda: model(torch.randn(next(sizes), 3).double()))
    assert torch.equal(_flat(model), before)


def test_dropout_draws_once_a_step() -> None:
    """All evaluations see the same draw, and the random numbers go on as after a single evaluation; one has a graph."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1)).double()
    x, y = torch.randn(30, 3).double(), torch.randn(30, 1).double()
    draws: list[Tensor] = []
    graphs: list[bool] = []

    def closure() -> Tensor:
        draws.append(torch.random.get_rng_state())
        residuals = model(x) - y
        graphs.append(residuals.requires_grad)
        return residuals

    state = torch.random.get_rng_state()
    model(x)
    after_one = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    optimizer = GGN(model, damping=1e-5, search=LevenbergMarquardt())
    _step(optimizer, closure)
    assert len(draws) > 2
    assert all(torch.equal(draw, state) for draw in draws)
    assert graphs == [True] + [False] * (len(draws) - 1)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), after_one)


class Counting(nn.Module):
    """Replaces its buffer at every call, instead of changing it in place."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x


def test_buffers_move_once_a_step() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), Counting(), nn.Linear(8, 1)).double()
    x, y = torch.randn(30, 3).double(), torch.randn(30, 1).double()
    twin = copy.deepcopy(model)
    twin(x)
    optimizer = GGN(model, damping=1e-6, search=LevenbergMarquardt(increase=100.0), solver="cg")
    _step(optimizer, lambda: model(x) - y)
    assert optimizer.info is not None
    assert optimizer.info.attempts > 1
    for (name, found), (_, expected) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.equal(found, expected), name


def test_autograd_notices_an_accepted_step() -> None:
    """A graph from before the step must not be used after it, and torch has to say so."""
    model = _mlp()
    x = torch.randn(6, 3).double()
    old = model(x).sum()
    optimizer = GGN(model, search=Armijo())
    _step(optimizer, lambda: model(x))
    assert optimizer.info is not None
    assert optimizer.info.accepted
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


@pytest.mark.parametrize("search", [Armijo(), LevenbergMarquardt()])
def test_closures_may_differentiate(search: Armijo | LevenbergMarquardt) -> None:
    """Residuals of a differential equation, u″ = f, need a graph of their own at every evaluation."""
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = torch.linspace(0, 1, 10).double().unsqueeze(1).requires_grad_()

    def closure() -> Tensor:
        u = model(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        return torch.cat([ddu + torch.sin(3 * x), 10 * u[:1], 10 * u[-1:]])

    optimizer = GGN(model, damping=1e-3, search=search)
    losses = [float(optimizer.step(closure)) for _ in range(10)]
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize("search", [Armijo(), LevenbergMarquardt()])
def test_nothing_left_to_gain(search: Armijo | LevenbergMarquardt) -> None:
    model = nn.Linear(3, 1).double()
    x = torch.randn(5, 3).double()
    y = model(x).detach()
    before = _flat(model)
    optimizer = GGN(model, search=search)
    for _ in range(50):
        _step(optimizer, lambda: model(x) - y)
    assert torch.equal(_flat(model), before)
    assert optimizer.param_groups[0]["damping"] == 0.3
    assert optimizer.info is not None
    assert (optimizer.info.accepted, optimizer.info.attempts) == (False, 0)


def test_momentum_that_leads_uphill_is_dropped() -> None:
    """After a change of target, the old direction promises a rise; the search goes on without it."""
    model = nn.Linear(3, 1).double()
    x = torch.randn(6, 3).double()
    optimizer = GGN(model, lr=1.0, damping=1e3, momentum=0.99, search=LevenbergMarquardt(attempts=1))
    _step(optimizer, lambda: model(x) - 100)
    y = model(x).detach() - 1
    expected = _flat(model) + dense_step(model, x, y, 1.0, optimizer.param_groups[0]["damping"])
    _step(optimizer, lambda: model(x) - y)
    assert optimizer.info is not None
    assert torch.allclose(_flat(model), expected, rtol=1e-9)


def test_after_a_rejection_the_step_is_solved_without_momentum() -> None:
    model = _mlp()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 1).double()
    search = LevenbergMarquardt(increase=3.0)
    optimizer = GGN(model, lr=0.1, damping=1.0, momentum=0.9, weight_decay=0.2, search=search)
    start = _flat(model)
    change = dense_step(model, x, y, lr=0.1, damping=1.0)
    _step(optimizer, lambda: model(x) - y)
    assert torch.allclose(_flat(model), start + change - 0.1 * 0.2 * start, rtol=1e-9, atol=1e-12)

    optimizer.param_groups[0]["damping"] = 1.0
    start = _flat(model)
    change = dense_step(model, x, y, lr=0.1, damping=3.0)
    offsets = iter([0.0, 1e3, 0.0])  # the first trial is made to look bad
    _step(optimizer, lambda: model(x) - y + next(offsets))
    assert optimizer.info is not None
    assert (optimizer.info.accepted, optimizer.info.attempts, optimizer.info.damping) == (True, 2, 3.0)
    assert torch.allclose(_flat(model), start + change - 0.1 * 0.2 * start, rtol=1e-9, atol=1e-12)


# settings


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Armijo(decrease=1.0), "decrease must be"),
        (lambda: Armijo(shrink=1.0), "shrink must be"),
        (lambda: Armijo(grow=0.9), "grow must be"),
        (lambda: Armijo(attempts=0), "attempts must be"),
        (lambda: LevenbergMarquardt(increase=1.0), "increase must be"),
        (lambda: LevenbergMarquardt(decrease=0.0), "decrease must be"),
        (lambda: LevenbergMarquardt(accept=0.5), "accept must be"),
        (lambda: LevenbergMarquardt(good=0.1), "good must be"),
        (lambda: LevenbergMarquardt(minimum=0.0), "minimum must be"),
        (lambda: LevenbergMarquardt(attempts=2.5), "attempts must be"),  # type: ignore[arg-type]
        (lambda: GGN(_mlp(), search=Armijo), "search must be"),  # type: ignore[arg-type]
        (lambda: GGN(_mlp(), search="armijo"), "search must be"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings(make: Callable[[], object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def test_levenberg_marquardt_needs_damping_to_multiply() -> None:
    model = _mlp()
    before = _flat(model)
    with pytest.raises(SettingError, match="start from one > 0"):
        GGN(model, damping=0.0, search=LevenbergMarquardt()).step(lambda: model(torch.randn(5, 3).double()))
    assert torch.equal(_flat(model), before)
