"""A training trial: one method on one problem until its budget ends."""

import math
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ggn_core import NonFiniteError

from .environment import environment, peak_memory_mib
from .errors import UserError
from .measure import synchronize_on
from .methods import Method, make_method
from .problems import Problem, Split, make_problem
from .trial import Curve, DataRecord, Outcome, TrainingTrial, Trial, TrialResult

__all__ = ["data_record", "first_batch", "loss_gradient", "parameter_count", "prepare", "train"]

EXPLODED = 1e6  # a training loss this many times the initial one counts as diverged
WARM_UP_STEPS = 3
GRADIENTS = 9  # timed for the unit of gradient-equivalents


def train(trial: TrainingTrial, keep: Callable[[nn.Module], None] | None = None) -> TrialResult:
    """Runs the trial in this process.

    Every epoch goes through the training set once, in an order drawn from the seed; the last, smaller batch is left
    out, so that every step has the same size. The clock runs while training and stops for evaluation.

    Args:
        trial: The trial.
        keep: Is given the trained model if training completes, after all that is measured has been measured.

    Raises:
        UserError: The problem's data cannot be read, or the batch is larger than the training set.
    """
    started, clock = time.time(), time.monotonic()  # only the latter is never set back
    problem = prepare(trial)
    first_step_seconds = _warm_up(trial, problem)
    gradient_seconds = _gradient_seconds(trial, problem)
    model = problem.model()
    curve, outcome, reason = _train(trial, problem, model)
    result = TrialResult(
        trial=trial,
        outcome=outcome,
        reason=reason,
        curve=curve,
        data=data_record(trial, problem),
        parameters=parameter_count(model),
        first_step_seconds=first_step_seconds,
        gradient_seconds=gradient_seconds,
        wall_seconds=time.monotonic() - clock,
        peak_memory_mib=peak_memory_mib(trial.device),
        environment=environment(trial.device),
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
    samples = len(problem.train.inputs)
    if trial.batch_size > samples:
        raise UserError(f"batch_size {trial.batch_size} is larger than the training set of {samples} samples")
    return problem


def data_record(trial: Trial, problem: Problem) -> DataRecord:
    """Which data the trial saw."""
    return DataRecord(
        name=trial.problem.label,
        source=problem.source,
        digest=problem.digest,
        train_samples=len(problem.train.inputs),
        test_samples=len(problem.test.inputs),
        inputs=problem.train.inputs[0].numel(),
        target=problem.target,
    )


def first_batch(trial: Trial, problem: Problem) -> Split:
    """The first samples of the training set, as many as a batch has."""
    return Split(problem.train.inputs[: trial.batch_size], problem.train.targets[: trial.batch_size])


def loss_gradient(model: nn.Module, batch: Split) -> Callable[[], object]:
    """A call that computes one gradient of the mean squared error, forward and backward pass."""

    def gradient() -> None:
        model.zero_grad()
        nn.functional.mse_loss(model(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]

    return gradient


def parameter_count(model: nn.Module) -> int:
    """How many numbers the model trains."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _train(trial: TrainingTrial, problem: Problem, model: nn.Module) -> tuple[Curve, Outcome, str]:
    torch.manual_seed(problem.order_seed)  # for methods that draw random numbers
    method = make_method(model, trial.method)
    columns: dict[str, list[float]] = {name: [] for name in Curve.model_fields}
    batches_per_epoch = len(problem.train.inputs) // trial.batch_size
    seconds = 0.0

    def evaluate(epoch: int) -> bool:
        """Adds a point to the curve; False if the loss has left all bounds."""
        loss, rmse = _errors(model, problem)
        if not (math.isfinite(loss) and math.isfinite(rmse)):
            return False
        steps = epoch * batches_per_epoch
        values = (steps, steps * trial.batch_size, epoch, seconds, loss, rmse)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        return loss <= EXPLODED * columns["train_loss"][0]

    evaluate(0)
    order = torch.Generator().manual_seed(problem.order_seed)
    outcome, reason = Outcome.COMPLETED, ""
    for epoch in range(1, trial.budget.epochs + 1):
        try:
            seconds += _timed_epoch(method, problem, trial.batch_size, order)
        except NonFiniteError as error:
            outcome, reason = Outcome.DIVERGED, f"epoch {epoch}: {error}"
            break
        if not evaluate(epoch):
            outcome = Outcome.DIVERGED
            reason = f"epoch {epoch}: the loss is no longer finite, or exceeds {EXPLODED:g} times the initial one"
            break
    return Curve.model_validate(columns), outcome, reason


def _timed_epoch(method: Method, problem: Problem, batch_size: int, order: torch.Generator) -> float:
    synchronize = synchronize_on(problem.train.inputs.device.type)
    synchronize()
    start = time.perf_counter()
    for inputs, targets in _batches(problem, batch_size, order):
        method.step(inputs, targets)
    synchronize()
    return time.perf_counter() - start


def _batches(problem: Problem, batch_size: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, targets = problem.train
    permutation = torch.randperm(len(inputs), generator=order).to(inputs.device)
    for indices in permutation[: len(inputs) // batch_size * batch_size].view(-1, batch_size):
        yield inputs[indices], targets[indices]


def _warm_up(trial: TrainingTrial, problem: Problem) -> float:
    """Steps on a model that is thrown away, to keep first-time costs out of the curve; returns the first step's."""
    model = problem.model()
    method = make_method(model, trial.method)
    synchronize = synchronize_on(trial.device)
    inputs, targets = first_batch(trial, problem)
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
    gradient, synchronize = loss_gradient(problem.model(), first_batch(trial, problem)), synchronize_on(trial.device)
    seconds = []
    for _ in range(WARM_UP_STEPS + GRADIENTS):
        start = time.perf_counter()
        gradient()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP_STEPS:])


@torch.no_grad()
def _errors(model: nn.Module, problem: Problem) -> tuple[float, float]:
    """Mean squared error on the training set, standardised; root mean squared error on the test set, in its unit."""
    train_loss = nn.functional.mse_loss(model(problem.train.inputs), problem.train.targets)
    test_loss = nn.functional.mse_loss(model(problem.test.inputs), problem.test.targets)
    return float(train_loss), float(test_loss.sqrt()) * problem.target_scale
