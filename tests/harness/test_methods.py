"""Methods by name: their settings are the optimizers' own, and a trial knows them by what is not at its default."""

import inspect
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from trials import make_trial

from ggn_core import GGN, Armijo, LevenbergMarquardt
from harness.analysis.labels import settings as told
from harness.methods import AdamSettings, GgnSettings, MethodConfig, SgdSettings, make_method

INPUTS = torch.tensor([[1.0, 2.0], [0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
TARGETS = torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([[0.5, -0.25]], dtype=torch.float64)


def _line() -> nn.Linear:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(WEIGHTS)
    return model


def _after_one_step(settings: Any) -> Tensor:
    model = _line()
    make_method(model, settings).step(INPUTS, TARGETS)
    return model.weight.detach()


def _gradient() -> Tensor:
    return 2 / 3 * (INPUTS @ WEIGHTS.T - TARGETS).T @ INPUTS


def _direction(damping: float) -> Tensor:
    """(XᵀX + damping I)⁻¹ Xᵀ r, the same step in the space of the weights."""
    gram = INPUTS.T @ INPUTS + damping * torch.eye(2, dtype=torch.float64)
    return torch.linalg.solve(gram, INPUTS.T @ (INPUTS @ WEIGHTS.T - TARGETS)).T


def test_defaults_are_those_of_the_optimizer() -> None:
    defaults = {name: p.default for name, p in inspect.signature(GGN).parameters.items()}
    ours = GgnSettings().settings
    assert ours == {name: defaults[name] for name in ours}


def test_weight_decay_is_decoupled_for_ggn_and_adam_and_in_the_gradient_for_sgd() -> None:
    assert torch.allclose(
        _after_one_step(GgnSettings(lr=0.5, damping=0.3, weight_decay=0.2)), 0.9 * WEIGHTS - 0.5 * _direction(0.3)
    )
    assert torch.allclose(
        _after_one_step(SgdSettings(lr=0.1, momentum=0, weight_decay=0.2)),
        WEIGHTS - 0.1 * (_gradient() + 0.2 * WEIGHTS),
    )
    first_step = 0.1 * _gradient().sign()  # of Adam, to its epsilon
    assert torch.allclose(_after_one_step(AdamSettings(lr=0.1, weight_decay=0.2)), 0.98 * WEIGHTS - first_step)


def test_the_limit_shortens_the_step_and_momentum_remembers_the_last() -> None:
    limited = _after_one_step(GgnSettings(lr=0.5, damping=0.3, max_step_norm=0.01)) - WEIGHTS
    assert float(limited.norm()) == pytest.approx(0.01)
    two_steps = []
    for momentum in (0.0, 0.9):
        model = _line()
        method = make_method(model, GgnSettings(lr=0.5, damping=0.3, momentum=momentum))
        for _ in range(2):
            method.step(INPUTS, TARGETS)
        two_steps.append(model.weight.detach())
    assert not torch.allclose(*two_steps)


def test_searches_and_solvers_by_name() -> None:
    for name, kind in (("armijo", Armijo), ("levenberg_marquardt", LevenbergMarquardt)):
        method: Any = make_method(_line(), GgnSettings(search=name, solver="cg"))
        assert isinstance(method.optimizer.search, kind)
        assert method.optimizer.solver == "cg"
        method.step(INPUTS, TARGETS)
        assert method.optimizer.info.attempts >= 1
        assert method.optimizer.info.iterations >= 1


def test_a_setting_at_its_default_makes_no_other_trial_and_is_not_told() -> None:
    # Made when a method had the settings lr and damping, lr and momentum, lr and two betas, and no others.
    known = {"ggn": "f40217c23d1fb4d2", "sgd": "bc4c73f5fb7c047d", "adam": "25a5d822194f56f6"}
    adapter: TypeAdapter[Any] = TypeAdapter(MethodConfig)
    for name, identity in known.items():
        trial = make_trial(method={"name": name})
        assert trial.id == identity
        assert "method.lr" in trial.flat()
        assert "method.weight_decay" not in trial.flat()
        extras = adapter.validate_python({"name": name}).EXTRAS
        assert not any(extra.replace("_", " ") in told(adapter.validate_python({"name": name})) for extra in extras)
    changed = ({"momentum": 0.5}, {"weight_decay": 0.1}, {"max_step_norm": 1.0}, {"solver": "cg"}, {"search": "armijo"})
    ids = {make_trial(method={"name": "ggn"} | change).id for change in changed}
    assert len(ids | {known["ggn"]}) == len(changed) + 1
    assert make_trial(method={"name": "ggn", "weight_decay": 0.1}).flat()["method.weight_decay"] == 0.1
    assert told(GgnSettings(momentum=0.5)) == "lr 1, damping 0.3, momentum 0.5"
