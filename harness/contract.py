"""What the harness relies on in a method or a model, tried on small problems: ``ggn check``.

The checks run in a process of their own, so that a crash or a hang of the code is a finding too.
"""

import copy
import gc
import math
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import plugins
from .errors import UserError
from .methods import Method, make_method
from .plugins import MODELS, OwnCode
from .problems.models import mlp, own_model
from .selection import set_value

__all__ = ["Finding", "check_own_code", "code_to_check"]

SECONDS = 60.0  # for one check
STEPS = 100
FEW_STEPS = 4
BATCH = 32


class Finding(NamedTuple):
    """What a check found: nothing is wrong if ``reason`` is empty."""

    check: str
    reason: str


class _WrongError(Exception):
    """A check fails; the message says what was seen, and what the harness needs."""


Check = Callable[[OwnCode], None]


def code_to_check(name: str, changes: Sequence[str]) -> tuple[OwnCode, str]:
    """Own code by its name, and what it is to make.

    Args:
        name: "package.module:attribute", or a registered name; looked for in the working folder, too.
        changes: Its settings, such as "lr=0.1".

    Raises:
        UserError: No such code, or it does not take these settings.
    """
    settings: dict[str, Any] = {}
    for change in changes:
        set_value(settings, change)
    group = plugins.group_of(name, [Path.cwd()])
    place = plugins.find(name, group, [Path.cwd()])
    settings = plugins.checked_settings(place, group, settings)
    missing = plugins.missing_settings(place, group, settings)
    if missing:
        raise UserError(f"'{name}': needs a value for {' and '.join(missing)}: --set {missing[0]}=…")
    return OwnCode.model_validate({**settings, "name": name, "plugin": place}), group


def check_own_code(code: OwnCode, group: str) -> Iterator[Finding]:
    """Runs the checks one after the other; what ends their process ends the checks.

    Args:
        code: With the settings to check it with.
        group: ``plugins.METHODS`` or ``plugins.MODELS``.
    """
    checks = MODEL_CHECKS if group == MODELS else METHOD_CHECKS
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(code.model_dump_json(), group, sending))
    process.start()
    sending.close()
    try:
        for name in checks:
            if not receiving.poll(SECONDS):
                yield Finding(name, f"not done within {SECONDS:g} s")
                return
            try:
                yield Finding(name, receiving.recv())
            except EOFError:
                process.join()
                yield Finding(name, _ending(process.exitcode))
                return
    finally:
        process.kill()
        process.join()


def _run(code_json: str, group: str, sending: Connection) -> None:
    os.dup2(2, 1)  # what the code prints is no part of the findings
    torch.set_num_threads(1)
    code = OwnCode.model_validate_json(code_json)
    for check in (MODEL_CHECKS if group == MODELS else METHOD_CHECKS).values():
        try:
            check(code)
        except (_WrongError, UserError) as wrong:
            sending.send(str(wrong))
        except Exception as error:  # whatever the code raises is what is wrong with it
            sending.send(f"{type(error).__name__}: {error}")
        else:
            sending.send("")


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"the process was ended by {signal.Signals(-exit_code).name}"
    return f"the process ended itself with exit code {exit_code}"


# Methods. Every check makes its own model and data: y = tanh of a linear map, an MLP of one hidden layer.


def _data(samples: int = BATCH, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(4, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return inputs.to(dtype), torch.tanh(inputs @ weights / 2).to(dtype)  # (b, 4), (b, 1)


def _pair(code: OwnCode, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Method]:
    model = mlp(4, 16, 1, 1, "tanh", seed=0).to(dtype)
    return model, make_method(model, code)


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def _trained(code: OwnCode, steps: int, seed: int = 0) -> Tensor:
    """The weights after some steps on batches drawn by ``seed``."""
    torch.manual_seed(seed)
    model, method = _pair(code)
    for step in range(steps):
        method.step(*_data(seed=step))
    return _weights(model)


def _loss(model: nn.Module) -> float:
    inputs, targets = _data(256, next(model.parameters()).dtype, seed=1)
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(inputs), targets))


def _is_made(code: OwnCode) -> None:
    model = mlp(4, 16, 1, 1, "tanh", seed=0)
    before = _weights(model)
    make_method(model, code)
    if not torch.equal(before, _weights(model)):
        raise _WrongError("the weights have changed before any step; leave them until step is called")


def _changes_parameters(code: OwnCode) -> None:
    model, method = _pair(code)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for seed in range(FEW_STEPS):
        method.step(*_data(seed=seed))
    if not torch.isfinite(_weights(model)).all():
        raise _WrongError(f"after {FEW_STEPS} steps there are weights that are not finite")
    named = zip(model.named_parameters(), before, strict=True)
    still = [name for (name, parameter), old in named if torch.equal(parameter, old)]
    if still:
        raise _WrongError(f"{FEW_STEPS} steps leave these parameters as they were: {', '.join(still)}")


def _loss_falls(code: OwnCode) -> None:
    model, method = _pair(code)
    start = _loss(model)
    for step in range(STEPS):
        method.step(*_data(seed=step))
    end = _loss(model)
    if not math.isfinite(end) or end >= start:
        raise _WrongError(
            f"the mean squared error went from {start:.3g} to {end:.3g} in {STEPS} steps on an easy problem; "
            "is the sign right, and the learning rate? (--set lr=…)"
        )


def _batch_sizes(code: OwnCode) -> None:
    for samples in (1, 7, 64):
        model, method = _pair(code)
        for seed in range(2):
            method.step(*_data(samples, seed=seed))
        if not torch.isfinite(_weights(model)).all():
            raise _WrongError(f"a batch of {samples} gives weights that are not finite")


def _several_outputs(code: OwnCode) -> None:
    model = mlp(4, 16, 1, 3, "tanh", seed=0)
    before = _weights(model)
    inputs, targets = _data()
    make_method(model, code).step(inputs, targets.expand(-1, 3))  # (b, 1) → (b, 3)
    if torch.equal(before, _weights(model)):
        raise _WrongError("a step with three outputs changes nothing")


def _double(code: OwnCode) -> None:
    model, method = _pair(code, torch.float64)
    before = _weights(model)
    method.step(*_data(dtype=torch.float64))
    kinds = {str(parameter.dtype) for parameter in model.parameters()}
    if kinds != {"torch.float64"}:
        raise _WrongError(f"after a step the parameters are {', '.join(sorted(kinds))}")
    method.step(*_data(dtype=torch.float64, seed=1))
    if torch.equal(before, _weights(model)):
        raise _WrongError("a step changes nothing")


def _reproducible(code: OwnCode) -> None:
    difference = (_trained(code, FEW_STEPS) - _trained(code, FEW_STEPS)).abs().max()
    if difference != 0 or torch.isnan(difference):
        raise _WrongError(
            f"two runs from equal seeds differ by {difference:.1e} after {FEW_STEPS} steps; draw random numbers from "
            "torch's global generator, or from one with a fixed seed"
        )


def _instances_apart(code: OwnCode) -> None:
    alone = _trained(code, FEW_STEPS)
    model, method = _pair(code)
    _, other = _pair(code)
    torch.manual_seed(0)
    method_steps = [_data(seed=step) for step in range(FEW_STEPS)]
    for step, batch in enumerate(method_steps):
        state = torch.get_rng_state()
        other.step(*_data(seed=100 + step))
        torch.set_rng_state(state)  # what the other one draws is not the matter here
        method.step(*batch)
    if not torch.equal(alone, _weights(model)):
        raise _WrongError(
            "a second instance, on another model, changes what the first one does; keep state in the instance: the "
            "harness warms up on an instance that it throws away"
        )


def _random_state(code: OwnCode) -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        _, method = _pair(code)
        method.step(*_data())
        ends.append((torch.get_rng_state(), str(np.random.get_state()), random.getstate()))
    (torch_1, numpy_1, python_1), (torch_2, numpy_2, python_2) = ends
    same = {"torch": torch.equal(torch_1, torch_2), "numpy": numpy_1 == numpy_2, "random": python_1 == python_2}
    if any(same.values()):
        seeded = ", ".join(name for name, equal in same.items() if equal)
        raise _WrongError(
            f"seeds the global random state of {seeded}: every trial would draw the same; use a generator"
        )


def _settings() -> dict[str, object]:
    """What belongs to the process, not to the method."""
    return {
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
        "gc.isenabled()": gc.isenabled(),
        "signal.getsignal(SIGINT)": signal.getsignal(signal.SIGINT),
    }


def _global_settings(code: OwnCode) -> None:
    before = _settings()
    _, method = _pair(code)
    method.step(*_data())
    changed = {name: value for name, value in _settings().items() if value != before[name]}
    for name, value in changed.items():
        raise _WrongError(
            f"{name} was {before[name]} and is {value} after a step; others' timings and results depend on it"
        )


def _model_state(code: OwnCode) -> None:
    model, method = _pair(code)
    method.step(*_data())
    if not model.training:
        raise _WrongError("the model is in evaluation mode after a step; put it back with model.train()")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise _WrongError(f"these parameters no longer require gradients after a step: {', '.join(frozen)}")


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _hooks(code: OwnCode) -> None:
    model, method = _pair(code)
    for seed in range(2):
        method.step(*_data(seed=seed))
    left = [f"{name or 'model'}.{kind}" for name, m in model.named_modules() for kind in HOOKS if getattr(m, kind)]
    left += [f"{name}._backward_hooks" for name, p in model.named_parameters() if p._backward_hooks]
    left += [kind for kind in HOOKS if getattr(nn.modules.module, f"_global{kind}", None)]
    if left:
        raise _WrongError(
            f"hooks stay behind after a step: {', '.join(left[:4])}; remove them in step, or evaluation runs through "
            "them and feeds them"
        )


def _evaluation_between(code: OwnCode) -> None:
    undisturbed = _trained(code, FEW_STEPS)
    torch.manual_seed(0)
    model, method = _pair(code)
    for step in range(FEW_STEPS):
        _loss(model)
        method.step(*_data(seed=step))
    if not torch.equal(undisturbed, _weights(model)):
        raise _WrongError("evaluating the model between steps changes what the steps do")


def _after_an_error(code: OwnCode) -> None:
    model, method = _pair(code)
    twin, twin_method = _pair(code)
    method.step(*_data())
    twin_method.step(*_data())
    before = _weights(model)
    inputs, targets = _data()
    try:
        method.step(inputs[:, :3], targets)  # (b, 3), where the model takes (b, 4)
    except Exception:
        pass
    else:
        raise _WrongError("a batch that the model refuses raises nothing; let the error through")
    if not torch.equal(before, _weights(model)):
        raise _WrongError("a step that raised has changed the weights")
    state = torch.get_rng_state()
    method.step(*_data(seed=1))
    torch.set_rng_state(state)
    twin_method.step(*_data(seed=1))
    if not torch.allclose(_weights(model), _weights(twin), rtol=1e-6, atol=1e-9):
        raise _WrongError("after a step that raised, the next one is not what it would have been")


# Models.


def _model(code: OwnCode, seed: int = 0, inputs: int = 4, outputs: int = 1) -> nn.Module:
    return own_model(code, (inputs,), outputs, seed)


def _shapes(code: OwnCode) -> None:
    for inputs, outputs in ((4, 1), (7, 3)):
        model = _model(code, inputs=inputs, outputs=outputs)
        for samples in (1, 5):
            found = tuple(model(torch.zeros(samples, inputs)).shape)
            if found != (samples, outputs):
                raise _WrongError(f"inputs of shape {(samples, inputs)} give {found}, {(samples, outputs)} is needed")


def _seeded(code: OwnCode) -> None:
    if not torch.equal(_weights(_model(code, 1)), _weights(_model(code, 1))):
        raise _WrongError(
            "two models of one seed have different weights; draw them from torch's global generator or `generator`"
        )
    if torch.equal(_weights(_model(code, 1)), _weights(_model(code, 2))):
        raise _WrongError("models of different seeds have equal weights: all seeds of a suite would start alike")


def _deterministic(code: OwnCode) -> None:
    model = _model(code)
    inputs, _ = _data()
    if not torch.equal(model(inputs), model(inputs)):
        raise _WrongError(
            "the same inputs give different outputs in training mode; dropout and the like are no least squares"
        )


def _samples_apart(code: OwnCode) -> None:
    model = _model(code).double()
    inputs, _ = _data(dtype=torch.float64)
    if not torch.allclose(model(inputs)[:3], model(inputs[:3])):
        raise _WrongError(
            "a sample's output depends on the others in its batch, as with batch normalization in training mode"
        )


def _trains(code: OwnCode) -> None:
    for dtype in (torch.float32, torch.float64):
        model = copy.deepcopy(_model(code)).to(dtype)
        inputs, targets = _data(dtype=dtype)
        nn.functional.mse_loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if without:
            raise _WrongError(f"these parameters do not act on the output: {', '.join(without)}")


METHOD_CHECKS: dict[str, Check] = {
    "is made for a model, and leaves it alone": _is_made,
    "steps change every parameter": _changes_parameters,
    "the loss falls on an easy problem": _loss_falls,
    "batches of 1, 7 and 64": _batch_sizes,
    "several outputs": _several_outputs,
    "float64": _double,
    "equal seeds, equal results": _reproducible,
    "instances do not disturb each other": _instances_apart,
    "global random state is not seeded": _random_state,
    "global settings stay as they are": _global_settings,
    "the model stays in training mode": _model_state,
    "no hooks stay behind": _hooks,
    "evaluation between steps changes nothing": _evaluation_between,
    "an error passes through and leaves no trace": _after_an_error,
}

MODEL_CHECKS: dict[str, Check] = {
    "is made, with outputs of the right shape": _shapes,
    "weights depend on the seed, and on it alone": _seeded,
    "equal inputs, equal outputs": _deterministic,
    "samples do not act on each other": _samples_apart,
    "every parameter gets a gradient, in float32 and float64": _trains,
}
