"""What MLflow is told of a trial: its tags, parameters, metrics and data set."""

import json
import math
from typing import TYPE_CHECKING

from .suite import Suite
from .trial import Outcome, TrialResult

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param, Run

__all__ = ["MODEL", "STATUS", "dataset", "end_time", "is_whole", "metrics", "milliseconds", "params", "tags"]

MODEL = "ggn.model"  # the tag of a run that has the trained model: where among its artifacts

STATUS = {
    Outcome.COMPLETED: "FINISHED",
    Outcome.DIVERGED: "FINISHED",
    Outcome.SKIPPED: "FINISHED",
    Outcome.OUT_OF_MEMORY: "FAILED",
    Outcome.TIMEOUT: "FAILED",
    Outcome.CRASHED: "FAILED",
    Outcome.REFUSED: "FAILED",
    Outcome.KILLED: "KILLED",
}


def tags(result: TrialResult, role: str, suite: Suite) -> dict[str, str]:
    """What runs are found by, and the environment that the numbers depend on."""
    facts = result.environment
    return {
        "ggn.kind": result.trial.kind,
        "ggn.trial": result.trial.id,
        "ggn.role": role,
        "ggn.outcome": str(result.outcome),
        "ggn.reason": result.reason[-4000:],
        "ggn.reading": suite.reading(result),
        "ggn.commit": str(facts.get("commit")),
        "ggn.dirty": str(facts.get("dirty")),
        **({"mlflow.source.git.commit": str(facts["commit"])} if facts.get("commit") else {}),
        **{f"environment.{key}": str(value) for key, value in facts.items()},
    }


def is_whole(run: "Run") -> bool:
    """Whether a run is a trial's, closed as its outcome asks; otherwise it may be half-written."""
    statuses = {str(outcome): status for outcome, status in STATUS.items()}
    return "ggn.trial" in run.data.tags and run.info.status == statuses.get(run.data.tags.get("ggn.outcome", ""))


def params(result: TrialResult) -> "list[Param]":
    """The trial's configuration, with dotted keys."""
    from mlflow.entities import Param

    return [Param(key, str(value)) for key, value in result.trial.flat().items()]


def metrics(result: TrialResult, suite: Suite, with_curves: bool) -> "list[Metric]":
    """The summary, and the curves if asked for.

    MLflow has no missing values, garbles infinity and stumbles over NaN: what is not a finite number is not told; the
    artifact holds it.
    """
    from mlflow.entities import Metric

    end = end_time(result)
    summary = suite.metrics(result)
    summary["first_step_seconds"] = result.first_step_seconds
    summary["gradient_seconds"] = summary.get("gradient_seconds", result.gradient_seconds)
    summary["peak_memory_mib"] = result.peak_memory_mib
    points: list[tuple[str, float | None, int, int]] = [(key, value, end, 0) for key, value in summary.items()]
    if with_curves:
        points += _curve_points(result)
    return [
        Metric(key, value, time, step)
        for key, value, time, step in points
        if value is not None and math.isfinite(value)
    ]


def _curve_points(result: TrialResult) -> list[tuple[str, float | None, int, int]]:
    """(key, value, milliseconds, step); the milliseconds run on the training clock, so that MLflow's time axis does."""
    curve, gradients = result.curve, result.gradients
    started = milliseconds(result.started)
    points: list[tuple[str, float | None, int, int]] = []
    for step, samples, seconds, epoch, loss, rmse in zip(
        curve.step, curve.samples, curve.seconds, curve.epoch, curve.train_loss, curve.test_rmse, strict=True
    ):
        now = started + int(seconds * 1000)
        for key, value in (("train_loss", loss), ("test_rmse", rmse), ("seconds", seconds), ("epoch", epoch)):
            points.append((key, value, now, step))
        for key, value in (("train_loss_by_samples", loss), ("test_rmse_by_samples", rmse)):
            points.append((key, value, now, samples))
    for count, loss in zip(gradients, curve.train_loss, strict=False):
        points.append(("train_loss_by_gradients", loss, started, round(count)))
    return points


def dataset(result: TrialResult) -> "list[DatasetInput]":
    """The data that the trial saw; nothing if it did not get as far as loading it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = result.data
    if data is None:
        return []
    entity = Dataset(
        name=data.name,
        digest=data.digest,
        source_type="local",
        source=json.dumps({"uri": data.source}),
        profile=json.dumps({"train_samples": data.train_samples, "test_samples": data.test_samples}),
    )
    return [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])]


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def end_time(result: TrialResult) -> int:
    """In milliseconds since the epoch; never before the start, though a clock that was set back may say so."""
    return milliseconds(result.started) + max(0, int(result.wall_seconds * 1000))
