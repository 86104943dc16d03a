"""A trial: one resolved cell of a suite, and what came of it.

A trial is a pure function from its configuration to its result. Its identity is the hash of that configuration, so the
same cell is recognised in another suite, another run, or after an interruption.
"""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from .frozen import Frozen, short
from .methods import MethodConfig
from .problems import ProblemConfig

__all__ = [
    "AnyTrial", "Budget", "Curve", "DataRecord", "Descent", "Outcome", "StepCostTrial", "StepCosts", "TheoryRecord",
    "TheoryTrial", "TrainingTrial", "Trial", "TrialResult",
]  # fmt: skip


class Budget(Frozen):
    """When a training trial ends."""

    epochs: Annotated[int, Field(ge=1)] = 40


class Trial(Frozen):
    """What every trial has. What only the reading of a result depends on, such as a target loss, is no part of it."""

    kind: str
    problem: ProblemConfig
    batch_size: Annotated[int, Field(ge=1)]
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits, equal for equal configurations."""
        identity = self.model_dump(mode="json") | {"problem": self.problem.identity()}
        for key in {"method", "methods"} & type(self).model_fields.keys():
            value = getattr(self, key)
            identity[key] = [method.identity() for method in value] if key == "methods" else value.identity()
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """The trial in a few words."""
        place = "" if self.device == "cpu" else f", {self.device}"
        problem = self.problem
        return f"{self._subject()} on {problem.title}, batch {self.batch_size}{place}, seed {self.seed}"

    def _subject(self) -> str:
        raise NotImplementedError

    def flat(self) -> dict[str, Any]:
        """The configuration with dotted keys: ``problem.width``, ``method.lr``, …; of a method, what it is told by."""
        dumped = self.model_dump(mode="json")
        if "method" in dumped:
            told = self.method.identity()  # type: ignore[attr-defined]
            dumped["method"] = {key: value for key, value in dumped["method"].items() if key in told}
        return _flatten(dumped)


class TrainingTrial(Trial):
    """One method trains one problem until its budget ends."""

    kind: Literal["training"] = "training"
    method: MethodConfig
    budget: Budget

    def _subject(self) -> str:
        method = self.method
        fields = type(method).model_fields
        told = {k: v for k, v in method.settings.items() if k not in fields or v != fields[k].default}
        return method.label + "".join(f" {key}={short(value)}" for key, value in told.items())


class StepCostTrial(Trial):
    """All methods of a cell take their steps in turns on one batch, and each step is timed.

    Attributes:
        methods: The methods; the first is timed against itself as well.
        rounds: How often each takes its turn.
    """

    kind: Literal["step_cost"] = "step_cost"
    methods: tuple[MethodConfig, ...]
    rounds: Annotated[int, Field(ge=1)]

    def _subject(self) -> str:
        return "steps of " + ", ".join(method.label for method in self.methods)


class TheoryTrial(Trial):
    """The theorems' network is held against what theory says of it; ``batch_size`` is that of the mini-batches.

    Attributes:
        methods: Those whose full-batch steps are followed, beside the undamped Gram-Gauss-Newton step.
        starts: Root mean squares of the initial residuals, each a descent of its own from the same weights.
        steps: Full-batch steps of each descent.
        epochs: Passes over the fixed mini-batches.
        link_damping: Of the single step that is held against kernel regression.
    """

    kind: Literal["theory"] = "theory"
    methods: tuple[MethodConfig, ...]
    starts: tuple[float, ...]
    steps: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    link_damping: Annotated[float, Field(ge=0)]

    def _subject(self) -> str:
        return "theory"


AnyTrial = Annotated[TrainingTrial | StepCostTrial | TheoryTrial, Field(discriminator="kind")]


class Outcome(StrEnum):
    """How a trial ended. Every outcome is recorded and counted; none is dropped."""

    COMPLETED = "completed"
    DIVERGED = "diverged"  # the loss left the finite numbers, or exploded
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"  # an error in the code, or a fatal signal
    KILLED = "killed"  # SIGKILL from outside: an operator, or the kernel for want of memory
    SKIPPED = "skipped"  # cannot run here, with the reason
    REFUSED = "refused"  # the step to be timed is not the step it should be

    @property
    def is_answer(self) -> bool:
        """Whether the trial says something about its method, rather than about the machine or the code."""
        return self in (Outcome.COMPLETED, Outcome.DIVERGED)


class Curve(Frozen):
    """Measurements along a training, one entry an evaluation; the first is taken before training.

    Attributes:
        step: Updates so far.
        samples: Training samples consumed so far.
        epoch: Passes over the training set so far.
        seconds: Training time so far; the clock stops for evaluation.
        train_loss: Mean squared error on the whole training set, standardised targets.
        test_rmse: Root mean squared error on the test set, in the target's own unit.
    """

    step: list[int] = []
    samples: list[int] = []
    epoch: list[float] = []
    seconds: list[float] = []
    train_loss: list[float] = []
    test_rmse: list[float] = []


class StepCosts(Frozen):
    """Times of a step-cost trial, in seconds a step, one entry a round.

    Attributes:
        step: For each method of the trial.
        again: The first method once more, on a copy of its own: what differs from its first row is noise.
        gradient: Forward and backward pass of the mean squared error: the unit of the phases.
        phases: The parts of a Gram-Gauss-Newton step, by name; empty where no method is one.
        memory_mib: For each method, the peak of a process of its own over data, model and batch.
        step_error: Relative error of the Gram-Gauss-Newton step, on a part of the batch, against the dense solve in
            float64; None where no method is one.
    """

    step: list[list[float]]
    again: list[float]
    gradient: list[float]
    phases: dict[str, list[float]] = {}
    memory_mib: list[float | None] = []
    step_error: float | None = None


class Descent(Frozen):
    """The residual norms of one full-batch descent.

    Attributes:
        method: Its method.
        start: Root mean square of the residuals it began with.
        residuals: ‖r‖ before the first step and after each.
        factors: For each undamped Gram-Gauss-Newton step, the C/√M of the bound ‖r⁺‖ ≤ C/√M ‖r‖²; empty for other
            methods, and where the activation's second derivative is unbounded.
    """

    method: MethodConfig
    start: float
    residuals: list[float]
    factors: list[float] = []


class TheoryRecord(Frozen):
    """What a theory trial measured.

    Attributes:
        link_gap: Of one step from kernel regression on held-out inputs, relative to how far the predictions moved.
        descents: One a method and start; the first ones are the undamped Gram-Gauss-Newton's.
        epoch_residuals: ‖r‖ before the first epoch over fixed mini-batches and after each.
        predicted_residuals: The same, as block Gauss–Seidel on the initial kernel has it.
        spectral_radius: Of that iteration: the rate it tends to, an epoch.
    """

    link_gap: float
    descents: list[Descent]
    epoch_residuals: list[float]
    predicted_residuals: list[float]
    spectral_radius: float


class DataRecord(Frozen):
    """Which data a trial saw."""

    name: str
    source: str
    digest: str
    train_samples: int
    test_samples: int
    inputs: int
    target: str


class TrialResult(Frozen):
    """What came of a trial.

    Attributes:
        trial: Its configuration.
        outcome: How it ended.
        reason: Why, for anything but "completed".
        curve: Of a training trial, up to the end, or to the last evaluation before it.
        resumed_after: Epochs of a training after which another process went on, because the one before was killed.
        costs: Of a step-cost trial that completed.
        theory: Of a theory trial that completed.
        data: The data set; None if the trial did not get as far as loading it.
        parameters: How many numbers the model trains; None where nothing counted them.
        first_step_seconds: The first step of a fresh model and method, which pays for warm-up; not in the curve.
        gradient_seconds: One gradient of the mean squared error on a batch, forward and backward pass, in the trial's
            own process: what divides seconds into gradient-equivalents.
        wall_seconds: The whole trial, evaluation included.
        peak_memory_mib: Of the trial's process; None where it could not be read.
        environment: Machine, software and commit.
        started: Seconds since the epoch.
    """

    trial: AnyTrial
    outcome: Outcome
    reason: str = ""
    curve: Curve = Curve()
    resumed_after: list[int] = []
    costs: StepCosts | None = None
    theory: TheoryRecord | None = None
    data: DataRecord | None = None
    parameters: int | None = None
    first_step_seconds: float | None = None
    gradient_seconds: float | None = None
    wall_seconds: float = 0.0
    peak_memory_mib: float | None = None
    environment: dict[str, str | int | float | bool | None] = {}
    started: float = 0.0

    @property
    def gradients(self) -> list[float]:
        """Gradient-equivalents so far, along the curve: training time in units of one gradient on a batch. Empty where
        the unit was not measured.
        """
        unit = self.gradient_seconds
        return [] if unit is None else [seconds / unit for seconds in self.curve.seconds]

    def at_target(
        self, target: float, axis: Literal["epoch", "seconds", "step", "samples", "gradients"]
    ) -> float | None:
        """Where along ``axis`` the training loss first met ``target``; None if it never did (censored)."""
        positions = self.gradients if axis == "gradients" else getattr(self.curve, axis)
        for position, loss in zip(positions, self.curve.train_loss, strict=bool(positions)):
            if loss <= target:
                return float(position)
        return None

    def summary(self, target: float) -> dict[str, float | None]:
        """The numbers that tables and MLflow show; None where the trial has none."""
        curve = self.curve
        finished = self.outcome is Outcome.COMPLETED
        return {
            "epochs_to_target": self.at_target(target, "epoch"),
            "seconds_to_target": self.at_target(target, "seconds"),
            "gradients_to_target": self.at_target(target, "gradients"),
            "final_train_loss": curve.train_loss[-1] if finished else None,
            "final_test_rmse": curve.test_rmse[-1] if finished else None,
            "best_test_rmse": min(curve.test_rmse) if finished else None,
            "training_seconds": curve.seconds[-1] if curve.seconds else None,
        }


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
