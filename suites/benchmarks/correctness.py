"""Speed is worth nothing if the step is wrong: errors and convergence are tracked beside it."""

import copy
import statistics
from typing import ClassVar

import torch

from ggn_core import gram
from ggn_core.reference import dense_gram
from harness.methods import GgnSettings
from harness.problems.configs import Concrete
from harness.training import train
from harness.trial import Budget, Outcome, TrainingTrial

from .networks import ARCHITECTURES, RULES, made

TARGET = 0.05  # training loss, as in suites/quickstart.yaml


class GramError:
    """Relative error of the float32 Gram against the dense float64 Jacobian."""

    params: ClassVar = [*RULES, *ARCHITECTURES]
    param_names = ("network",)
    unit = "relative Frobenius error"
    tolerance = 1.0  # another order of the same sums may double a rounding error

    def track_error(self, network: str) -> float:
        model, inputs, _ = made((RULES | ARCHITECTURES)[network], 8, "cpu")
        exact_inputs = inputs.double() if inputs.is_floating_point() else inputs
        exact = dense_gram(copy.deepcopy(model).double(), exact_inputs)
        error = gram(model, inputs).double() - exact
        return float(torch.linalg.matrix_norm(error) / torch.linalg.matrix_norm(exact))


class Convergence:
    """Epochs until the training loss on UCI Concrete meets the target: the median of three seeds."""

    unit = "epochs"
    tolerance = 0.15  # an epoch of seven or eight is no finding

    def track_epochs_to_target(self) -> float:
        return statistics.median(self._epochs(seed) for seed in range(3))

    def _epochs(self, seed: int) -> float:
        trial = TrainingTrial(
            problem=Concrete(width=64, depth=2),
            method=GgnSettings(lr=0.5, damping=3.0),
            batch_size=128,
            threads=1,
            seed=seed,
            budget=Budget(epochs=20),
        )
        result = train(trial)
        epochs = result.at_target(TARGET, "epoch")
        if result.outcome is not Outcome.COMPLETED or epochs is None:
            raise RuntimeError(f"seed {seed}: the target was not met within {trial.budget.epochs} epochs")
        return epochs
