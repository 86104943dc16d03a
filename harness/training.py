"""A training trial: one method on one problem until its budget ends."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ggn_core import NonFiniteError

from .checkpoint import Checkpoint
from .course import Course
from .environment import environment, peak_memory_mib
from .errors import UserError
from .measure import synchronize_on
from .methods import make_method
from .problems import Batch, Problem, make_problem
from .trial import Curve, DataRecord, Outcome, TrainingTrial, Trial, TrialResult

__all__ = ["data_record", "loss_gradient", "parameter_count", "prepare", "train"]

WARM_UP_STEPS = 3
GRADIENTS = 9  # timed for the unit of gradient-equivalents


def train(
    trial: TrainingTrial, keep: Callable[[nn.Module], None] | None = None, checkpoint_path: Path | None = None
) -> TrialResult:
    """Runs the trial in this process, or goes on with it where another process was killed.

    Args:
        trial: The trial.
        keep: Is given the trained model if training completes, after all that is measured has been measured.
        checkpoint_path: Where a long training is kept while it is under way; None to keep it nowhere.

    Raises:
        UserError: The problem's data cannot be read, or the batch is larger than the training set.
    """
    started, clock = time.time(), time.monotonic()  # only the latter is never set back
    problem = prepare(trial)
    first_step_seconds = _warm_up(trial, problem)
    gradient_seconds = _gradient_seconds(trial, problem)
    model = problem.model()
    course = Course(trial, problem, model)
    facts = environment(trial.device)
    outcome, reason = course.run(None if checkpoint_path is None else Checkpoint(checkpoint_path, facts))
    result = TrialResult(
        trial=trial,
        outcome=outcome,
        reason=reason,
        curve=Curve.model_validate(course.columns),
        resumed_after=course.resumed_after,
        data=data_record(trial, problem),
        parameters=parameter_count(model),
        first_step_seconds=first_step_seconds,
        gradient_seconds=gradient_seconds,
        wall_seconds=course.earlier_seconds + time.monotonic() - clock,
        peak_memory_mib=peak_memory_mib(trial.device),
        environment=facts,
        started=started,
    )
    if keep is not None and outcome is Outcome.COMPLETED:
        keep(model)
    return result


def prepare(trial: Trial) -> Problem:
    """Takes the threads that the trial asks for, and gives its problem.

    Raises:
        UserError: The problem's data cannot be read, or the batch is larger than the training set.
    """
    torch.set_num_threads(trial.threads)
    problem = make_problem(trial.problem, trial.seed, trial.device, trial.dtype)
    samples = len(problem.train)
    if trial.batch_size > samples:
        raise UserError(f"batch_size {trial.batch_size} is larger than the training set of {samples} samples")
    return problem


def data_record(trial: Trial, problem: Problem) -> DataRecord:
    """Which data the trial saw."""
    return DataRecord(
        name=trial.problem.label,
        source=problem.source,
        digest=problem.digest,
        train_samples=len(problem.train),
        test_samples=len(problem.test),
        inputs=problem.train.shape.numel(),
        target=problem.target,
    )


def loss_gradient(model: nn.Module, batch: Batch) -> Callable[[], object]:
    """A call that computes one gradient of the mean squared error, forward and backward pass."""

    def gradient() -> None:
        model.zero_grad()
        nn.functional.mse_loss(model(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]

    return gradient


def parameter_count(model: nn.Module) -> int:
    """How many numbers the model trains."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _warm_up(trial: TrainingTrial, problem: Problem) -> float:
    """Steps on a model that is thrown away, to keep first-time costs out of the curve; returns the first step's."""
    model = problem.model()
    method = make_method(model, trial.method)
    synchronize = synchronize_on(trial.device)
    inputs, targets = problem.train.first(trial.batch_size)
    start = time.perf_counter()
    first = 0.0
    try:
        for step in range(WARM_UP_STEPS):
            method.step(inputs, targets)
            synchronize()
            if step == 0:
                first = time.perf_counter() - start
    except NonFiniteError:
        pass  # the training proper will meet it again, and report it
    return first


def _gradient_seconds(trial: TrainingTrial, problem: Problem) -> float:
    """The median time of one gradient of the loss on a batch."""
    gradient = loss_gradient(problem.model(), problem.train.first(trial.batch_size))
    synchronize = synchronize_on(trial.device)
    seconds = []
    for _ in range(WARM_UP_STEPS + GRADIENTS):
        start = time.perf_counter()
        gradient()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP_STEPS:])
