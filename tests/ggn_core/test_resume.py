"""Saved and loaded, copied or pickled, an optimizer goes on bit for bit, whatever its options."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compared import flat
from torch import nn

from ggn_core import GGN, Armijo, ConjugateGradient, DampingScheduler, LevenbergMarquardt, SettingError

Pair = tuple[nn.Module, GGN]

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
Y = torch.randn(12, 2, generator=torch.Generator().manual_seed(2))
WEIGHTS = torch.arange(12)


def _model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.2), nn.Tanh(), nn.Linear(16, 2)).to(dtype)


def _go_on(pair: Pair, steps: int, scheduler: Any = None) -> list[object]:
    model, optimizer = pair
    x, y = (t.to(flat(model).dtype) for t in (X, Y))
    told: list[object] = []
    for _ in range(steps):
        optimizer.step(lambda: model(x) - y, sample_weights=WEIGHTS)
        if scheduler is not None:
            scheduler.step()
        info = optimizer.info
        assert info is not None
        told += [info.damping, info.step_length, info.attempts, info.gain_ratio, info.iterations, float(info.step_norm)]
    return told


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum-decay-limit": {"momentum": 0.9, "weight_decay": 0.1, "max_step_norm": 0.05},
    "armijo": {"momentum": 0.9, "weight_decay": 0.01, "damping": 1e-4, "search": Armijo()},
    "levenberg-marquardt": {"momentum": 0.9, "damping": 1e-4, "search": LevenbergMarquardt()},
    "matrix-free": {"momentum": 0.9, "solver": ConjugateGradient(rank=2, fallback_rows=0, tolerance=1e-3)},
    "everything": {
        "momentum": 0.9,
        "weight_decay": 0.01,
        "damping": 1e-2,
        "max_step_norm": 1.0,
        "search": LevenbergMarquardt(),
        "solver": ConjugateGradient(rank=2, fallback_rows=0, tolerance=1e-3),
    },
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_resumed_from_a_file(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = _model(dtype)
    optimizer = GGN(model, **options)
    _go_on((model, optimizer), 3)
    file = io.BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.random.get_rng_state()}
    torch.save(state, file)
    expected = _go_on((model, optimizer), 3)

    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    twin = _model(dtype)
    resumed = GGN(twin, **{**options, "damping": 7.0, "momentum": 0.1})  # the settings come from the file
    twin.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    torch.random.set_rng_state(loaded["random"])
    assert _go_on((twin, resumed), 3) == expected
    assert torch.equal(flat(model), flat(twin))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_copied_or_pickled(options: dict[str, Any], copied: Callable[[Pair], Pair]) -> None:
    model = _model(torch.float64)
    optimizer = GGN(model, **options)
    _go_on((model, optimizer), 2)
    twins = copied((model, optimizer))
    assert twins[1].model is twins[0]
    random = torch.random.get_rng_state()
    expected = _go_on((model, optimizer), 2)
    torch.random.set_rng_state(random)
    assert _go_on(twins, 2) == expected
    assert torch.equal(flat(model), flat(twins[0]))


def test_a_state_from_before_a_setting_existed() -> None:
    model = _model(torch.float64)
    optimizer = GGN(model, lr=0.5)
    state = optimizer.state_dict()
    for name in ("momentum", "weight_decay", "max_step_norm", "step_length"):
        del state["param_groups"][0][name]
    optimizer.load_state_dict(state)
    _go_on((model, optimizer), 1)
    assert optimizer.param_groups[0]["momentum"] == 0.0


# the damping's schedule


def test_the_damping_follows_its_factor_and_resumes() -> None:
    model = _model(torch.float64)
    optimizer = GGN(model, damping=8.0)
    scheduler = DampingScheduler(optimizer, lambda count: 0.5**count)
    assert _go_on((model, optimizer), 3, scheduler)[::6] == [8.0, 4.0, 2.0]

    twin = _model(torch.float64)
    resumed = GGN(twin, damping=3.0)
    resumed.load_state_dict(optimizer.state_dict())
    again = DampingScheduler(resumed, lambda count: 0.5**count)
    again.load_state_dict(pickle.loads(pickle.dumps(scheduler.state_dict())))
    assert _go_on((twin, resumed), 2, again)[::6] == [1.0, 0.5]


def test_both_schedules_at_once() -> None:
    model = _model(torch.float64)
    optimizer = GGN(model, lr=1.0, damping=8.0, search=Armijo())
    rates = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    dampings = DampingScheduler(optimizer, lambda count: 1 / (1 + count))
    for _ in range(2):
        _go_on((model, optimizer), 1, dampings)
        rates.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["damping"] == 8.0 / 3


def test_what_cannot_be_scheduled() -> None:
    model = _model(torch.float64)
    with pytest.raises(SettingError, match="SGD has no damping"):
        DampingScheduler(torch.optim.SGD(model.parameters(), lr=0.1), lambda count: 1.0)
    with pytest.raises(SettingError, match="adapts the damping itself"):
        DampingScheduler(GGN(model, search=LevenbergMarquardt()), lambda count: 1.0)
    optimizer = GGN(model)
    DampingScheduler(optimizer, lambda count: -1.0)
    with pytest.raises(SettingError, match="damping must be"):
        _go_on((model, optimizer), 1)
