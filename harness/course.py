"""The course of a training: epoch by epoch along the training set, with a curve of what it has reached."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ggn_core import NonFiniteError

from .checkpoint import Checkpoint
from .measure import synchronize_on
from .methods import make_method
from .problems import Batch, Problem, Samples
from .trial import Curve, Outcome, TrainingTrial

__all__ = ["Course"]

EXPLODED = 1e6  # a training loss this many times the initial one counts as diverged
PREFETCHED_BYTES = 64 * 2**20  # of inputs that are made ready before the clock starts


class Course:
    """A training under way.

    Every epoch goes through the training set once, in an order drawn from the seed; the last, smaller batch is left
    out, so that every step has the same size. The clock runs while the method takes its steps: not while batches are
    read and standardised, and not for evaluation.

    Args:
        trial: What trains.
        problem: Its data.
        model: Its model, which is trained in place.

    Attributes:
        columns: Of the curve so far.
        resumed_after: Epochs after which another process went on.
        earlier_seconds: Wall time of the processes before this one, up to where this one took over.
    """

    def __init__(self, trial: TrainingTrial, problem: Problem, model: nn.Module):
        torch.manual_seed(problem.order_seed)  # for methods that draw random numbers
        self._trial, self._problem, self._model = trial, problem, model
        self._method = make_method(model, trial.method)
        self._order = torch.Generator().manual_seed(problem.order_seed)
        self._epoch, self._seconds = 0, 0.0
        self.columns: dict[str, list[float]] = {name: [] for name in Curve.model_fields}
        self.resumed_after: list[int] = []
        self.earlier_seconds = 0.0
        self._clock = time.monotonic()

    def run(self, checkpoint: Checkpoint | None = None) -> tuple[Outcome, str]:
        """Trains to the end of the budget, or to the point where the loss has left all bounds: how it ended, and why.

        Args:
            checkpoint: Where the state is kept now and then, and taken from if there is one.
        """
        checkpoint = checkpoint if hasattr(self._method, "load_state_dict") else None
        kept = None if checkpoint is None else checkpoint.load()
        if kept is not None:
            self._go_on_from(kept)
        else:
            self._evaluate()
        while self._epoch < self._trial.budget.epochs:
            self._epoch += 1
            try:
                self._seconds += self._timed_epoch()
            except NonFiniteError as error:
                return Outcome.DIVERGED, f"epoch {self._epoch}: {error}"
            if not self._evaluate():
                reason = f"the loss is no longer finite, or exceeds {EXPLODED:g} times the initial one"
                return Outcome.DIVERGED, f"epoch {self._epoch}: {reason}"
            if checkpoint is not None and self._epoch < self._trial.budget.epochs:
                checkpoint.save(self._state)
        return Outcome.COMPLETED, ""

    def _evaluate(self) -> bool:
        """Adds a point to the curve; False if the loss has left all bounds."""
        loss, rmse = _errors(self._model, self._problem)
        if not (math.isfinite(loss) and math.isfinite(rmse)):
            return False
        steps = self._epoch * (len(self._problem.train) // self._trial.batch_size)
        values = (steps, steps * self._trial.batch_size, self._epoch, self._seconds, loss, rmse)
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)
        return loss <= EXPLODED * self.columns["train_loss"][0]

    def _timed_epoch(self) -> float:
        synchronize = synchronize_on(self._trial.device)
        seconds = 0.0
        for batches in _prefetched(self._problem.train, self._trial.batch_size, self._order):
            synchronize()
            start = time.perf_counter()
            for inputs, targets in batches:
                self._method.step(inputs, targets)
            synchronize()
            seconds += time.perf_counter() - start
        return seconds

    def _state(self) -> dict[str, Any]:
        """What a process needs to go on from here; the model and the method on whatever device they are."""
        return {
            "model": self._model.state_dict(),
            "method": self._method.state_dict(),  # type: ignore[attr-defined]
            "order": self._order.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self._trial.device) if self._trial.device != "cpu" else None,
            "columns": self.columns,
            "epoch": self._epoch,
            "seconds": self._seconds,
            "wall_seconds": self.earlier_seconds + time.monotonic() - self._clock,
            "resumed_after": self.resumed_after,
        }

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._method.load_state_dict(state["method"])  # type: ignore[attr-defined]
        self._order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self._trial.device)
        self.columns, self._epoch, self._seconds = state["columns"], state["epoch"], state["seconds"]
        self.resumed_after = [*state["resumed_after"], self._epoch]
        self.earlier_seconds = state["wall_seconds"]


def _prefetched(samples: Samples, batch_size: int, order: torch.Generator) -> Iterator[list[Batch]]:
    """The batches of an epoch, several at a time, ready on the problem's device."""
    batches = torch.randperm(len(samples), generator=order)[: len(samples) // batch_size * batch_size]
    at_once = max(1, PREFETCHED_BYTES // (batch_size * samples.sample_bytes))
    for several in torch.split(batches.view(-1, batch_size), at_once):
        yield [samples.take(indices) for indices in several]


@torch.no_grad()
def _errors(model: nn.Module, problem: Problem) -> tuple[float, float]:
    """Mean squared error on the training set, standardised; root mean squared error on the test set, in its unit."""
    with _in_evaluation_mode(model):
        return _mean_square(model, problem.train), _mean_square(model, problem.test) ** 0.5 * problem.target_scale


@contextmanager
def _in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """BatchNorm takes its running averages, Dropout drops nothing; then each module is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    yield
    for module in training:
        module.training = True


def _mean_square(model: nn.Module, samples: Samples) -> float:
    total, count = 0.0, 0
    for inputs, targets in samples.chunks():
        total += float(nn.functional.mse_loss(model(inputs), targets)) * targets.numel()
        count += targets.numel()
    return total / count
