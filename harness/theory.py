"""A theory trial: the theorems' network, held against what theory says of it.

Every prediction comes from the closed form of the network's tangent kernel; every step from ggn_core.GGN. Nothing is
shared between the two, so a defect of the optimizer shows as a theory that fails.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from ggn_core import GGN, NonFiniteError

from .environment import environment, peak_memory_mib
from .errors import UserError
from .methods import GgnSettings, MethodConfig, make_method
from .problems import Problem
from .problems.two_layer import TwoLayerNetwork, kernel
from .training import data_record, prepare
from .trial import Descent, Outcome, TheoryRecord, TheoryTrial, TrialResult

__all__ = ["measure_theory"]

UNDAMPED = GgnSettings(lr=1.0, damping=0.0)  # λ = 1, α = 0: what the theorems are about

FLOOR = 1e-13  # of residuals that begin near 1: below it float64 has nothing left to say

# β: the largest |σ″|. Softplus: σ″ = s(1 − s) with s the logistic function; tanh: at tanh² = 1/3.
CURVATURE = {"softplus": 0.25, "tanh": 4 / (3 * 3**0.5)}


def measure_theory(trial: TheoryTrial) -> TrialResult:
    """Runs the trial in this process.

    Raises:
        UserError: The problem is not the theorems' network, or the mini-batches do not divide its samples.
    """
    started, clock = time.time(), time.monotonic()  # only the latter is never set back
    if trial.problem.name != "two_layer":
        raise UserError(f"the theory is that of the problem 'two_layer', not of '{trial.problem.label}'")
    problem = prepare(trial)
    samples = len(problem.train)
    if samples % trial.batch_size:
        raise UserError(f"batch_size {trial.batch_size} does not divide the {samples} samples")
    epoch_residuals, predicted, radius = _epochs(trial, problem)
    return TrialResult(
        trial=trial,
        outcome=Outcome.COMPLETED,
        theory=TheoryRecord(
            link_gap=_link_gap(problem, trial.link_damping),
            descents=list(_descents(trial, problem)),
            epoch_residuals=epoch_residuals,
            predicted_residuals=predicted,
            spectral_radius=radius,
        ),
        data=data_record(trial, problem),
        wall_seconds=time.monotonic() - clock,
        peak_memory_mib=peak_memory_mib(trial.device),
        environment=environment(trial.device),
        started=started,
    )


def _link_gap(problem: Problem, damping: float) -> float:
    """How far one step is from kernel regression, f⁺(x) = f(x) − K(x, B) (K_BB + damping·I)⁻¹ (f_B − y_B).

    Both are read on held-out inputs; the gap is relative to how far kernel regression moves the predictions there.
    """
    model, (inputs, targets), held_out = _network(problem), problem.train.all(), problem.test.all().inputs
    with torch.no_grad():
        damped = kernel(model, inputs, inputs) + damping * torch.eye(len(inputs)).to(inputs)
        movement = -kernel(model, held_out, inputs) @ torch.linalg.solve(damped, model(inputs) - targets)  # (m, 1)
        expected = model(held_out) + movement
    GGN(model, lr=1.0, damping=damping).step(lambda: model(inputs) - targets)
    with torch.no_grad():
        return float((model(held_out) - expected).norm() / movement.norm())


def _descents(trial: TheoryTrial, problem: Problem) -> Iterator[Descent]:
    for start in trial.starts:
        yield _descent(trial, problem, UNDAMPED, start)
    for method in trial.methods:
        yield _descent(trial, problem, method, trial.starts[0])


def _descent(trial: TheoryTrial, problem: Problem, settings: MethodConfig, start: float) -> Descent:
    model = _network(problem)
    inputs, own_targets = problem.train.all()
    with torch.no_grad():
        outputs = model(inputs)
        targets = outputs - start * (outputs - own_targets)  # the problem's own residuals, scaled
    method = make_method(model, settings)
    bounded = settings == UNDAMPED and trial.problem.activation in CURVATURE
    residuals, factors = [_residual_norm(model, inputs, targets)], []
    with _until_it_diverges():
        for _ in range(trial.steps):
            factor = _factor(model, inputs, trial.problem.activation) if bounded else None
            method.step(inputs, targets)
            residuals.append(_residual_norm(model, inputs, targets))
            if factor is not None:
                factors.append(factor)
            if residuals[-1] < FLOOR:
                break
    return Descent(method=settings, start=start, residuals=residuals, factors=factors)


def _factor(model: TwoLayerNetwork, inputs: Tensor, activation: str) -> float:
    """C/√M of the bound ‖r⁺‖ ≤ C/√M ‖r‖² for one full undamped step.

    The step cancels the linear part, which leaves r⁺_i = ½ Δwᵀ ∇²f_i Δw, with ‖∇²f_i‖ ≤ β‖x_i‖²/√M and
    ‖Δw‖² = rᵀ G⁻¹ r ≤ ‖r‖²/λ_min(G). So C = β √n max‖x_i‖² / (2 λ_min(G)).
    """
    least = torch.linalg.eigvalsh(kernel(model, inputs, inputs).detach())[0]
    constant = CURVATURE[activation] * len(inputs) ** 0.5 * inputs.square().sum(1).max() / (2 * least)
    return float(constant / len(model.signs) ** 0.5)


def _epochs(trial: TheoryTrial, problem: Problem) -> tuple[list[float], list[float], float]:
    """Residual norms along passes over fixed batches, as measured and as block Gauss–Seidel has them; its radius.

    In the limit of large width a step on batch B takes r to r − K[:, B] K_BB⁻¹ r_B, so an epoch is a product of such
    factors, one a batch.
    """
    model, (inputs, targets) = _network(problem), problem.train.all()
    n = len(inputs)
    batches = torch.arange(n).view(-1, trial.batch_size)  # (batches, b)
    with torch.no_grad():
        K = kernel(model, inputs, inputs)
        residual = model(inputs) - targets  # (n, 1)
        epoch = torch.eye(n).to(K)
        for batch in batches:
            epoch = epoch - K[:, batch] @ torch.linalg.solve(K[batch][:, batch], epoch[batch])
        radius = float(torch.linalg.eigvals(epoch).abs().max())
    method = make_method(model, UNDAMPED)
    measured, predicted = [float(residual.norm())], [float(residual.norm())]
    with _until_it_diverges():
        for _ in range(trial.epochs):
            for batch in batches:
                method.step(inputs[batch], targets[batch])
            measured.append(_residual_norm(model, inputs, targets))
            residual = epoch @ residual
            predicted.append(float(residual.norm()))
            if measured[-1] < FLOOR:
                break
    return measured, predicted[: len(measured)], radius


@contextmanager
def _until_it_diverges() -> Iterator[None]:
    """A descent that leaves the finite numbers ends there; what was measured before stays."""
    with suppress(NonFiniteError):
        yield


@torch.no_grad()
def _residual_norm(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """‖f − y‖.

    Raises:
        NonFiniteError: It is no number.
    """
    norm = float((model(inputs) - targets).norm())
    if not norm < float("inf"):
        raise NonFiniteError("the residuals left the finite numbers")
    return norm


def _network(problem: Problem) -> TwoLayerNetwork:
    model = problem.model()
    assert isinstance(model, TwoLayerNetwork)
    return model
