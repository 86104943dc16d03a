"""Capturable steps: the ordinary step's results without a look at any value, so that recorded they can be replayed.

A GPU's recording is tested where there is one. Elsewhere ``make_fx`` records the operations of a step, refusing those
that hand a value to Python, and the recording is run on other data.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, Case
from compared import flat, relative_error
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ggn_core import GGN, Armijo, ConjugateGradient, DampingScheduler, NonFiniteError, SettingError
from ggn_core.capturable import solve_on_device
from ggn_core.reference import dense_step
from ggn_core.solve import solve_damped
from ggn_core.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _mlp(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)


def _data(samples: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 3).double(), torch.randn(samples, 1).double()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_equals_the_dense_one(case: Case) -> None:
    inputs = case.inputs(5)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    model = case.model(2).double()
    targets = torch.randn_like(model(inputs).detach())
    before, change = flat(model), dense_step(model, inputs, targets, lr=0.7, damping=0.3)
    GGN(model, lr=0.7, damping=0.3, capturable=True).step(lambda: model(inputs) - targets)
    assert relative_error(flat(model) - before, change) < TOLERANCE


REPERTOIRE: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "weight decay": {"weight_decay": 0.1},
    "both": {"momentum": 0.5, "weight_decay": 0.1},
}


@pytest.mark.parametrize("settings", REPERTOIRE.values(), ids=REPERTOIRE)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_steps_follow_the_ordinary_ones(settings: dict[str, Any], weighted: bool, grouped: bool) -> None:
    model = _mlp()
    twin = copy.deepcopy(model)
    ordinary, capturable = GGN(model, damping=0.3, **settings), GGN(twin, damping=0.3, capturable=True, **settings)
    weights = torch.rand(6) if weighted else None
    for optimizer in (ordinary, capturable):
        if grouped:
            _split(optimizer, lr=0.2)
    for _ in range(4):
        x, y = _data()
        loss = ordinary.step(lambda: model(x) - y, weights)  # noqa: B023
        assert torch.allclose(capturable.step(lambda: twin(x) - y, weights), loss)  # noqa: B023
        assert relative_error(flat(twin), flat(model)) < TOLERANCE
        assert ordinary.info is not None
        assert capturable.info is not None
        assert torch.allclose(capturable.info.step_norm, ordinary.info.step_norm)
        assert bool(capturable.info.accepted)


def _split(optimizer: GGN, lr: float) -> None:
    """The last parameter in a group of its own."""
    group = optimizer.param_groups[0]
    last = {**group, "params": [group["params"].pop()], "param_names": [group["param_names"].pop()], "lr": lr}
    optimizer.param_groups.append(last)


def test_an_ordinary_step_looks_at_values() -> None:
    """So that the next test would notice."""
    model = _mlp()
    optimizer = GGN(model, damping=0.3)
    with pytest.raises(RuntimeError, match="value out of a tracing tensor"):
        make_fx(lambda x, y, *_: optimizer.step(lambda: model(x) - y))(*_data(), *model.parameters())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_step_replays_on_other_data(case: Case) -> None:
    model = case.model(2).double()
    twin = copy.deepcopy(model)
    settings: dict[str, Any] = {"lr": 0.7, "damping": 0.3, "momentum": 0.5, "weight_decay": 0.01}
    optimizer, ordinary = GGN(model, capturable=True, **settings), GGN(twin, **settings)

    def batch() -> tuple[Tensor, Tensor]:
        x = case.inputs(5)
        x = x.double() if x.is_floating_point() else x
        return x, torch.randn_like(twin(x).detach())

    def step(x: Tensor, y: Tensor) -> Tensor:
        return optimizer.step(lambda: model(x) - y)

    step(*batch())  # makes the momentum's state
    state = [*model.parameters(), *(of["momentum_buffer"] for of in optimizer.state.values())]
    recorded = make_fx(lambda x, y, *_: step(x, y))(*batch(), *state)
    twin.load_state_dict(model.state_dict())
    ordinary.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        x, y = batch()
        with torch.no_grad():
            loss = recorded(x, y, *state)
        assert torch.allclose(ordinary.step(lambda: twin(x) - y), loss)  # noqa: B023
        assert relative_error(flat(model), flat(twin)) < TOLERANCE


def test_a_recorded_step_reads_weights_and_settings_where_they_are() -> None:
    model = _mlp()
    twin = copy.deepcopy(model)
    weights, lr, damping = torch.rand(6).double(), torch.tensor(0.7).double(), torch.tensor(0.3).double()
    optimizer = GGN(model, lr=lr, damping=damping, weight_decay=0.01, capturable=True)
    inputs = [weights, lr, damping, *model.parameters()]
    recorded = make_fx(lambda x, y, *_: optimizer.step(lambda: model(x) - y, weights))(*_data(), *inputs)
    twin.load_state_dict(model.state_dict())
    for _ in range(3):
        x, y = _data()
        weights.uniform_()
        lr.mul_(0.5)
        damping.mul_(2.0)
        with torch.no_grad():
            recorded(x, y, *inputs)
        ordinary = GGN(twin, lr=float(lr), damping=float(damping), weight_decay=0.01)
        ordinary.step(lambda: twin(x) - y, weights)  # noqa: B023
        assert relative_error(flat(model), flat(twin)) < TOLERANCE


def test_what_is_not_finite_moves_nothing() -> None:
    model, (x, y) = _mlp(), _data()
    optimizer = GGN(model, damping=0.3, momentum=0.9, weight_decay=0.1, capturable=True)
    optimizer.step(lambda: model(x) - y)
    before = flat(model)
    assert bool(torch.isnan(optimizer.step(lambda: model(x) - y * torch.nan)))
    assert optimizer.info is not None
    assert not bool(optimizer.info.accepted)
    assert torch.equal(flat(model), before)
    optimizer.step(lambda: model(x) - y)  # momentum has not kept it
    assert bool(optimizer.info.accepted)
    assert bool(torch.isfinite(flat(model)).all())
    assert not torch.equal(flat(model), before)


def test_an_infinite_jacobian_moves_nothing() -> None:
    """The derivative of the root at zero, under finite residuals."""
    model, (x, y) = _mlp(), _data()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    before = flat(model)
    with pytest.raises(NonFiniteError):
        GGN(model, damping=0.3).step(lambda: model(x).square().sqrt() - y)
    optimizer = GGN(model, damping=0.3, capturable=True)
    assert bool(torch.isfinite(optimizer.step(lambda: model(x).square().sqrt() - y)))
    assert optimizer.info is not None
    assert not bool(optimizer.info.accepted)
    assert torch.equal(flat(model), before)


def _gram(eigenvalues: list[float]) -> Tensor:
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64))
    return basis * torch.tensor(eigenvalues, dtype=torch.float64) @ basis.T


@pytest.mark.parametrize("damping", [1e-3, 2.0, torch.tensor(0.1)])
def test_the_solve_is_the_ordinary_one(damping: float | Tensor) -> None:
    gram, rhs = _gram([3.0, 1.0, 0.0]), torch.randn(3).double()
    found = solve_on_device(gram, rhs, damping)
    assert torch.allclose(found.v, solve_damped(gram, rhs, float(damping)).v, rtol=1e-8)


@pytest.mark.parametrize(("precision", "rounding"), [(torch.float32, 1e-5), (torch.float64, 1e-14)])
def test_damping_below_the_noise_gets_the_same_jitter(precision: torch.dtype, rounding: float) -> None:
    """An eigenvalue of rounding errors, negative: an undisturbed factorisation does not exist."""
    gram, rhs = _gram([1000.0, 1.0, -rounding]), torch.randn(3).double()
    ordinary = solve_damped(gram, rhs, 1e-20, precision)
    assert ordinary.solver == "cholesky+jitter"
    found = solve_on_device(gram, rhs, 1e-20, precision)
    assert torch.allclose(found.v, ordinary.v, rtol=1e-6)


def test_a_matrix_that_cannot_be_factored_gives_nan() -> None:
    assert bool(torch.isnan(solve_on_device(_gram([1.0, 1.0, -1.0]), torch.ones(3).double(), 0.1).v).all())


def test_learning_rate_and_damping_may_be_tensors() -> None:
    """Changed in place, between steps, by schedulers that replays would follow."""
    model, twin = _mlp(), _mlp()
    twin.load_state_dict(model.state_dict())
    lr, damping = torch.tensor(0.5), torch.tensor(3.0)
    optimizer = GGN(model, lr=lr, damping=damping, weight_decay=0.1, capturable=True)
    reference = GGN(twin, lr=0.5, damping=3.0, weight_decay=0.1)
    schedules = [
        (DampingScheduler(o, lambda step: 0.5**step), torch.optim.lr_scheduler.ExponentialLR(o, 0.5))
        for o in (optimizer, reference)
    ]
    for _ in range(3):
        x, y = _data()
        optimizer.step(lambda: model(x) - y)  # noqa: B023
        reference.step(lambda: twin(x) - y)  # noqa: B023
        assert relative_error(flat(model), flat(twin)) < 1e-7
        for of_optimizer in schedules:
            for schedule in of_optimizer:
                schedule.step()
    assert float(lr) == 0.5 / 8
    assert float(damping) == 3 / 8
    assert optimizer.param_groups[0]["lr"] is lr
    assert optimizer.param_groups[0]["damping"] is damping


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"damping": 0.0}, "damping must be > 0 where the step is capturable"),
        ({"max_step_norm": 1.0}, "max_step_norm decides by a value"),
        ({"search": Armijo()}, "a search decides by values"),
        ({"solver": "cg"}, "capturable takes 'cholesky' only"),
        ({"solver": ConjugateGradient()}, "capturable takes 'cholesky' only"),
        ({"momentum": torch.tensor(0.5)}, "momentum must be a number where the step is capturable"),
    ],
)
def test_what_would_decide_by_a_value_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        GGN(_mlp(), **settings, capturable=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_is_capturable_too(copied: Callable[[GGN], GGN]) -> None:
    copy_ = copied(GGN(_mlp(), damping=0.3, capturable=True))
    model, (x, y) = copy_.model, _data()
    assert copy_.capturable
    copy_.step(lambda: model(x) - y * torch.nan)


def test_a_recording_gets_matrices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes to them whenever it is replayed; those that are kept go when a batch has another size."""
    capturing, workspace = False, Workspace()
    monkeypatch.setattr("ggn_core.workspace.capturing", lambda _: capturing)

    def matrix() -> Tensor:
        return workspace.square("any", 3, torch.float64, torch.device("meta"))

    kept = matrix()
    capturing = True
    assert matrix() is not kept
    assert matrix() is not matrix()
    capturing = False
    assert matrix() is kept


@pytest.mark.cuda
@pytest.mark.parametrize("settings", REPERTOIRE.values(), ids=REPERTOIRE)
def test_a_cuda_graph_replays_steps(settings: dict[str, Any]) -> None:
    model = _mlp().cuda()
    twin = copy.deepcopy(model)
    optimizer, ordinary = GGN(model, capturable=True, **settings), GGN(twin, **settings)
    x, y = (part.cuda() for part in _data())

    def step() -> Tensor:
        return optimizer.step(lambda: model(x) - y)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
            ordinary.step(lambda: twin(x) - y)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for _ in range(4):
        new_x, new_y = _data()
        x.copy_(new_x)
        y.copy_(new_y)
        graph.replay()
        assert torch.allclose(ordinary.step(lambda: twin(x) - y), loss)
        assert relative_error(flat(model), flat(twin)) < 1e-8


@pytest.mark.cuda
def test_an_ordinary_step_cannot_be_recorded() -> None:
    model, (x, y) = _mlp().cuda(), (part.cuda() for part in _data())
    optimizer = GGN(model)
    optimizer.step(lambda: model(x) - y)
    with pytest.raises(Exception, match="capturable=True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step(lambda: model(x) - y)
