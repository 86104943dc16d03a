"""A step-cost trial: what a step of each method costs, in one process, in turns.

Before anything is timed, the Gram-Gauss-Newton step must equal the dense solve in float64: the time of a wrong step
means nothing.
"""

import copy
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ggn_core import GGN
from ggn_core.reference import dense_step
from ggn_core.solver import Solver

from .environment import environment, peak_memory_mib
from .measure import interleaved, repeats_for, synchronize_on, warm_up
from .methods import GgnSettings, MethodConfig, make_method, with_rate
from .phases import TINY, step_phases
from .problems import Batch, Problem
from .training import data_record, loss_gradient, parameter_count, prepare
from .trial import Outcome, StepCosts, StepCostTrial, TrialResult

__all__ = ["measure_steps", "step_error"]

DENSE_ELEMENTS = 2**27  # of the dense Jacobian that the check may form: 1 GiB in float64
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}  # relative, for the step
ITERATIVE_TOLERANCE = 1e-3
STEPS_FOR_MEMORY = 3


def measure_steps(trial: StepCostTrial) -> TrialResult:
    """Runs the trial in this process.

    Raises:
        UserError: The problem's data cannot be read, or the batch is larger than the training set.
    """
    started, clock = time.time(), time.monotonic()  # only the latter is never set back
    # Before torch has started a thread: each method's memory is that of a child of its own.
    memory = [_memory_in_a_child(trial, method) for method in trial.methods]
    problem = prepare(trial)
    error = _largest_error(trial, problem)
    bound = _tolerance(trial)
    exact = error is None or error <= bound
    return TrialResult(
        trial=trial,
        outcome=Outcome.COMPLETED if exact else Outcome.REFUSED,
        reason="" if exact else f"GGN's step differs from the dense float64 solve by {error:.1e}, allowed {bound:g}",
        costs=_costs(trial, problem, memory, error) if exact else None,
        data=data_record(trial, problem),
        parameters=parameter_count(problem.model()),
        wall_seconds=time.monotonic() - clock,
        peak_memory_mib=peak_memory_mib(trial.device),
        environment=environment(trial.device),
        started=started,
    )


def step_error(model: nn.Module, batch: Batch, damping: float, solver: Solver = "auto") -> float:
    """Relative error of a step of GGN against the dense solve in float64, on as many samples as the latter can bear."""
    parameters = sum(p.numel() for p in model.parameters())
    samples = max(1, min(len(batch.inputs), 16, DENSE_ELEMENTS // (parameters * batch.targets.shape[1])))
    inputs, targets = batch.inputs[:samples], batch.targets[:samples]
    # The step is taken on a copy in the trial's dtype; the difference of the weights is exact enough in float64. It
    # comes first: of a network that it refuses, as one with BatchNorm, there is no dense step either.
    stepped = copy.deepcopy(model)
    GGN(stepped, lr=1.0, damping=damping, solver=solver).step(lambda: stepped(inputs) - targets)
    double = copy.deepcopy(model).double()
    exact = dense_step(double, inputs.double(), targets.double(), lr=1.0, damping=damping)
    change = torch.cat(
        [
            (after.detach().double() - before.detach().double()).flatten()
            for after, before in zip(stepped.parameters(), model.parameters(), strict=True)
        ]
    )
    return float((change - exact).norm() / exact.norm())


def _largest_error(trial: StepCostTrial, problem: Problem) -> float | None:
    batch = problem.train.first(trial.batch_size)
    # What momentum, decay and a limit add to the step is held against independent truths by the optimizer's own tests.
    solved = [(method.damping, method.solver) for method in trial.methods if isinstance(method, GgnSettings)]
    return max((step_error(problem.model(), batch, *how) for how in dict.fromkeys(solved)), default=None)


def _tolerance(trial: StepCostTrial) -> float:
    """The relative error that a step may have; an iterative solver stops at its own tolerance, whatever the dtype."""
    iterative = any(isinstance(method, GgnSettings) and method.solver == "cg" for method in trial.methods)
    return ITERATIVE_TOLERANCE if iterative else TOLERANCE[trial.dtype]


def _costs(trial: StepCostTrial, problem: Problem, memory: list[float | None], error: float | None) -> StepCosts:
    batch, synchronize = problem.train.first(trial.batch_size), synchronize_on(trial.device)
    steps = [_step(problem.model(), method, batch) for method in (*trial.methods, trial.methods[0])]
    steps.append(loss_gradient(problem.model(), batch))
    repeats = [repeats_for(warm_up(step, synchronize)) for step in steps]
    *step, again, gradient = interleaved(steps, repeats, trial.rounds, trial.seed, synchronize)
    ours = next((method for method in trial.methods if isinstance(method, GgnSettings) and _is_plain(method)), None)
    return StepCosts(
        step=step,
        again=again,
        gradient=gradient,
        phases={}
        if ours is None
        else step_phases(problem.model(), batch.inputs, batch.targets, ours.damping, trial.rounds, synchronize),
        memory_mib=memory,
        step_error=error,
    )


def _is_plain(settings: GgnSettings) -> bool:
    """Whether the step consists of the phases, and of nothing else."""
    return (
        settings.solver != "cg" and not settings.momentum and not settings.weight_decay and not settings.max_step_norm
    )


def _step(model: nn.Module, settings: MethodConfig, batch: Batch) -> Callable[[], object]:
    method = make_method(model, with_rate(settings, TINY))
    return lambda: method.step(batch.inputs, batch.targets)


def _memory_in_a_child(trial: StepCostTrial, method: MethodConfig) -> float | None:
    """Peak memory in MiB of a few steps, over data, model and batch, in a process forked for it; None if it failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, pickle.dumps(_memory(trial, method)))
            os._exit(0)
        except BaseException:
            os._exit(1)  # the trial proper will meet the error too, and report it
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return float(pickle.loads(answer)) if answer else None


def _memory(trial: StepCostTrial, method: MethodConfig) -> float:
    problem = prepare(trial)
    step = _step(problem.model(), method, problem.train.first(trial.batch_size))
    if trial.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(trial.device)
        base = torch.cuda.memory_allocated(trial.device) / 2**20
    else:
        base = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    for _ in range(STEPS_FOR_MEMORY):
        step()
    return peak_memory_mib(trial.device) - base
