"""SPRING's momentum, weight decay and the step's limit, against dense formulas over several steps."""

import copy

import pytest
import torch
from cases import CASES, Case
from compared import flat, relative_error
from torch import Tensor, nn

from ggn_core import GGN, SettingError
from ggn_core.model import call
from ggn_core.reference import dense_jacobian

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


class DenseSpring:
    """φ⁺ = μφ + Jᵀ(JJᵀ + damping·I)⁻¹(r − μJφ), by definition."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor, damping: float, momentum: Tensor | float):
        self.model, self.inputs, self.targets = model, inputs, targets
        self.damping, self.momentum = damping, momentum
        self.last = torch.zeros_like(flat(model))

    def direction(self) -> Tensor:
        jacobian = dense_jacobian(self.model, self.inputs)
        with torch.no_grad():
            r = (call(self.model, self.inputs) - self.targets).reshape(-1)
        damped = jacobian @ jacobian.T + self.damping * torch.eye(len(r)).to(r)
        prior = self.momentum * self.last
        self.last = prior + jacobian.T @ torch.linalg.solve(damped, r - jacobian @ prior)
        return self.last


def _problem(case: Case, batch: int = 4, outputs: int = 2) -> tuple[nn.Module, Tensor, Tensor]:
    model, inputs = case.model(outputs).double(), case.inputs(batch)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return model, inputs, torch.randn_like(model(inputs).detach())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_springs_formula(case: Case) -> None:
    model, inputs, targets = _problem(case)
    dense = DenseSpring(model, inputs, targets, damping=0.5, momentum=0.9)
    optimizer = GGN(model, lr=0.3, damping=0.5, momentum=0.9)
    for _ in range(3):
        expected = flat(model) - 0.3 * dense.direction()
        optimizer.step(lambda: model(inputs) - targets)
        assert relative_error(flat(model), expected) < 1e-10
        assert optimizer.info is not None
        assert abs(float(optimizer.info.step_norm) / float(dense.last.norm()) - 1) < 1e-8


def _mlp() -> tuple[nn.Module, Tensor, Tensor]:
    return _problem(next(case for case in CASES if case.name == "mlp-tanh"), batch=6, outputs=1)


def _split(optimizer: GGN, at: int, **settings: float) -> None:
    """Gives the parameters from ``at`` on a group of their own."""
    group = optimizer.param_groups[0]
    optimizer.param_groups.append(
        {**group, "params": group["params"][at:], "param_names": group["param_names"][at:], **settings}
    )
    group["params"], group["param_names"] = group["params"][:at], group["param_names"][:at]


def test_each_group_has_its_own_rate_momentum_and_decay() -> None:
    model, inputs, targets = _mlp()
    optimizer = GGN(model, lr=0.3, damping=0.5, momentum=0.9, weight_decay=0.1)
    _split(optimizer, 2, lr=0.1, momentum=0.0, weight_decay=0.0)
    first = sum(p.numel() for p in optimizer.param_groups[0]["params"])
    total = len(flat(model))

    def by_group(a: float, b: float) -> Tensor:
        return torch.tensor([a] * first + [b] * (total - first), dtype=torch.float64)

    dense = DenseSpring(model, inputs, targets, damping=0.5, momentum=by_group(0.9, 0.0))
    for _ in range(3):
        before = flat(model)
        expected = before - by_group(0.3, 0.1) * (dense.direction() + by_group(0.1, 0.0) * before)
        optimizer.step(lambda: model(inputs) - targets)
        assert relative_error(flat(model), expected) < 1e-10


def test_weight_decay_is_decoupled() -> None:
    model, inputs, targets = _mlp()
    dense = DenseSpring(model, inputs, targets, damping=0.5, momentum=0.0)
    optimizer = GGN(model, lr=0.3, damping=0.5, weight_decay=0.2)
    for _ in range(2):
        expected = (1 - 0.3 * 0.2) * flat(model) - 0.3 * dense.direction()
        optimizer.step(lambda: model(inputs) - targets)
        assert relative_error(flat(model), expected) < 1e-12


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("split", [False, True])
def test_the_limit_shortens_long_steps_and_leaves_short_ones(momentum: float, split: bool) -> None:
    model, inputs, targets = _mlp()
    dense = DenseSpring(model, inputs, targets, damping=0.5, momentum=momentum)
    optimizer = GGN(model, lr=0.3, damping=0.5, momentum=momentum)
    rates = torch.full_like(flat(model), 0.3)
    if split:
        _split(optimizer, 2, lr=0.1)
        rates[sum(p.numel() for p in optimizer.param_groups[0]["params"]) :] = 0.1
    for bound in (1e-3, 1e3, 0.02):
        for group in optimizer.param_groups:
            group["max_step_norm"] = bound
        before, step = flat(model), rates * dense.direction()
        optimizer.step(lambda: model(inputs) - targets)
        expected = step * min(1.0, bound / float(step.norm()))
        assert relative_error(before - flat(model), expected) < 1e-9
        assert optimizer.info is not None
        assert abs(optimizer.info.step_length - min(1.0, bound / float(step.norm()))) < 1e-9


def test_a_parameter_set_free_later_joins_with_no_momentum() -> None:
    model, inputs, targets = _mlp()
    twin = copy.deepcopy(model)
    model[0].weight.requires_grad_(False)
    optimizer = GGN(model, momentum=0.9)
    optimizer.step(lambda: model(inputs) - targets)
    model[0].weight.requires_grad_(True)
    optimizer.step(lambda: model(inputs) - targets)
    assert not torch.equal(model[0].weight, twin[0].weight)


def test_groups_must_agree_on_what_is_one_for_all() -> None:
    model, inputs, targets = _mlp()
    optimizer = GGN(model)
    _split(optimizer, 2, max_step_norm=1.0)
    with pytest.raises(SettingError, match="max_step_norm must agree"):
        optimizer.step(lambda: model(inputs) - targets)


def test_a_learning_rate_in_a_tensor_may_change_in_place() -> None:
    model, inputs, targets = _mlp()
    rate = torch.tensor(0.5)
    optimizer = GGN(model, lr=rate)  # type: ignore[arg-type]
    for _ in range(2):
        optimizer.step(lambda: model(inputs) - targets)
    rate.fill_(-1.0)
    with pytest.raises(SettingError, match="lr must be"):
        optimizer.step(lambda: model(inputs) - targets)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"momentum": 1.0}, r"momentum must be a number in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"momentum": None}, "momentum must be .* got NoneType"),
        ({"weight_decay": -1e-4}, "weight_decay must be"),
        ({"weight_decay": float("nan")}, "weight_decay must be"),
        ({"max_step_norm": 0.0}, "max_step_norm must be None or"),
        ({"max_step_norm": "x"}, "max_step_norm must be None or"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    model, inputs, targets = _mlp()
    with pytest.raises(SettingError, match=words):
        GGN(model, **settings)
    optimizer = GGN(model)
    optimizer.param_groups[0].update(settings)
    with pytest.raises(SettingError, match=words):
        optimizer.step(lambda: model(inputs) - targets)
