"""Records trials in MLflow, and reads them back. No other file talks to MLflow.

One experiment a suite, one parent run an invocation, one child run a trial. Only the parent process records, after a
trial has ended, so nothing is logged inside a timed region. The child's artifact ``trial.json`` is the whole result.
"""

import getpass
import json
import logging
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from .environment import commit, environment
from .errors import UserError
from .suite import Suite
from .sweep import EVALUATION
from .trial import Outcome, TrialResult

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["RecordedSuite", "Tracker", "TrackingError", "recorded_at", "tracking_uri"]

ARTIFACT = "trial.json"
BATCH = 1000  # MLflow's limit on the metrics of one request

STATUS = {
    Outcome.COMPLETED: "FINISHED",
    Outcome.DIVERGED: "FINISHED",
    Outcome.SKIPPED: "FINISHED",
    Outcome.OUT_OF_MEMORY: "FAILED",
    Outcome.TIMEOUT: "FAILED",
    Outcome.CRASHED: "FAILED",
    Outcome.KILLED: "KILLED",
}


class TrackingError(UserError):
    """The tracking server refused or did not answer; finished trials are on disk."""


class _Record(NamedTuple):
    """A trial's run in MLflow; ``started`` in milliseconds since the epoch, ``reading`` what its metrics rest on."""

    run_id: str
    outcome: Outcome
    started: int
    reading: str


class Tracker:
    """One suite's records.

    Args:
        suite: Its name names the experiment.

    Raises:
        UserError: MLflow is missing, or the tracking store does not answer.
    """

    def __init__(self, suite: Suite):
        self.uri = tracking_uri()
        # Fail within seconds, not minutes, where no server listens; what the user has set stays.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        for noisy in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.suite = suite
        self._parent = ""  # the run of this invocation, once it is open
        try:
            self._client = MlflowClient()
            found = self._client.get_experiment_by_name(suite.suite)
            if found is None:
                # Without the tag MLflow's page takes an experiment for a chat application's.
                kind = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": suite.question}
                self.experiment_id = self._client.create_experiment(suite.suite, tags=kind)
            elif found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
                self.experiment_id = found.experiment_id
            else:
                self.experiment_id = found.experiment_id
        except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
            raise UserError(
                f"the tracking store {self.uri} does not answer ({_first_line(error)}); "
                "set MLFLOW_TRACKING_URI to one that does, or unset it for a local file"
            ) from None
        self._recorded = self._find_recorded()

    def holds(self, result: TrialResult) -> bool:
        """Whether this very result is recorded; of a skip, one record is enough."""
        record = self._recorded.get(result.trial.id)
        if record is None or record.outcome is not result.outcome or record.reading != self.suite.reading(result):
            return False
        return result.outcome is Outcome.SKIPPED or record.started == _milliseconds(result.started)

    def load(self, trial_id: str) -> TrialResult | None:
        """The recorded result of a trial, or None."""
        if trial_id not in self._recorded:
            return None
        run_id = self._recorded[trial_id].run_id
        from mlflow.artifacts import load_text

        try:
            return TrialResult.model_validate_json(load_text(f"runs:/{run_id}/{ARTIFACT}"))
        except (OSError, ValidationError):
            return None
        except Exception as error:
            raise TrackingError(_first_line(error)) from error

    def begin(self) -> None:
        """Opens this invocation's run, the parent of what it records."""
        with _translated():
            self._close_abandoned()
            facts = {f"environment.{key}": str(value) for key, value in environment().items()}
            tags = {"ggn.kind": "invocation", "ggn.process": _process(), **_source(), **facts}
            run = self._client.create_run(self.experiment_id, run_name=self.suite.suite, tags=tags)
            self._parent = run.info.run_id
            self._client.log_text(self._parent, self.suite.model_dump_json(indent=2), "suite.json")

    def end(self, status: str) -> None:
        """Closes this invocation's run as "FINISHED", "KILLED" or "FAILED"."""
        with _translated():
            self._client.set_terminated(self._parent, status)

    def record(self, result: TrialResult, role: str) -> None:
        """Adds a child run. Until it is closed it does not count as recorded.

        Raises:
            TrackingError: The server refused or did not answer; the result stays on disk.
        """
        from mlflow.entities import Param, RunTag

        trial = result.trial
        started = _milliseconds(result.started)
        with _translated():
            run = self._client.create_run(
                self.experiment_id,
                start_time=started,
                run_name=trial.title,
                tags={"mlflow.parentRunId": self._parent, "ggn.process": _process(), **_source()},
            )
            run_id = run.info.run_id
            tags = {
                "ggn.kind": trial.kind,
                "ggn.trial": trial.id,
                "ggn.role": role,
                "ggn.outcome": str(result.outcome),
                "ggn.reason": result.reason[-4000:],
                "ggn.suite": self.suite.suite,
                "ggn.reading": self.suite.reading(result),
                "ggn.commit": str(result.environment.get("commit")),
                "ggn.dirty": str(result.environment.get("dirty")),
            }
            metrics = self._metrics(result, started, with_curves=role == EVALUATION)
            params = [Param(key, str(value)) for key, value in trial.flat().items()]
            self._client.log_batch(
                run_id, metrics=metrics[:BATCH], params=params, tags=[RunTag(k, v) for k, v in tags.items()]
            )
            for begin in range(BATCH, len(metrics), BATCH):
                self._client.log_batch(run_id, metrics=metrics[begin : begin + BATCH])
            self._log_data(run_id, result)
            self._client.log_text(run_id, result.model_dump_json(), ARTIFACT)
            self._client.set_terminated(run_id, STATUS[result.outcome], started + int(result.wall_seconds * 1000))
        self._recorded[trial.id] = _Record(run_id, result.outcome, started, self.suite.reading(result))

    def attach(self, folder: Path) -> None:
        """Keeps the files of ``folder`` with this invocation's run."""
        with _translated():
            self._client.log_artifacts(self._parent, str(folder), "report")

    def _metrics(self, result: TrialResult, started: int, with_curves: bool) -> list[Any]:
        from mlflow.entities import Metric

        end = started + int(result.wall_seconds * 1000)
        # MLflow has no missing values and garbles infinity: a number that does not exist is not logged.
        summary = self.suite.metrics(result)
        summary["first_step_seconds"] = result.first_step_seconds
        summary["peak_memory_mib"] = result.peak_memory_mib
        metrics = [Metric(key, value, end, 0) for key, value in summary.items() if value is not None]
        if not with_curves:
            return metrics
        curve = result.curve
        for step, samples, seconds, epoch, loss, rmse in zip(
            curve.step, curve.samples, curve.seconds, curve.epoch, curve.train_loss, curve.test_rmse, strict=True
        ):
            # The timestamps run on the training clock, so MLflow's time axis is training time.
            now = started + int(seconds * 1000)
            for key, value in (("train_loss", loss), ("test_rmse", rmse), ("seconds", seconds), ("epoch", epoch)):
                metrics.append(Metric(key, value, now, step))
            for key, value in (("train_loss_by_samples", loss), ("test_rmse_by_samples", rmse)):
                metrics.append(Metric(key, value, now, samples))
        return metrics

    def _log_data(self, run_id: str, result: TrialResult) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = result.data
        if data is None:
            return
        dataset = Dataset(
            name=data.name,
            digest=data.digest,
            source_type="local",
            source=json.dumps({"uri": data.source}),
            profile=json.dumps({"train_samples": data.train_samples, "test_samples": data.test_samples}),
        )
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _find_recorded(self) -> dict[str, _Record]:
        """Trial → its record, the newest where there are several.

        A run counts once it has been closed as its outcome asks; one that is open, or that was closed because its
        process died, may be half-written.
        """
        recorded: dict[str, _Record] = {}
        statuses = {str(outcome): status for outcome, status in STATUS.items()}
        for run in self._runs("attributes.status != 'RUNNING'"):
            trial, outcome = run.data.tags.get("ggn.trial"), run.data.tags.get("ggn.outcome", "")
            reading = run.data.tags.get("ggn.reading", "")
            if trial is not None and run.info.status == statuses.get(outcome):
                recorded.setdefault(trial, _Record(run.info.run_id, Outcome(outcome), run.info.start_time, reading))
        return recorded

    def _close_abandoned(self) -> None:
        """Closes runs that a killed process of this machine left open."""
        for run in self._runs("attributes.status = 'RUNNING'"):
            host, _, process = run.data.tags.get("ggn.process", "").rpartition(":")
            if host == socket.gethostname() and process.isdigit() and not _is_alive(int(process)):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _runs(self, condition: str) -> Iterator["Run"]:
        token = None
        while True:
            with _translated():
                page = self._client.search_runs(
                    [self.experiment_id],
                    filter_string=condition,
                    max_results=1000,
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
            yield from page
            token = page.token
            if not token:
                return


def tracking_uri() -> str:
    """Where MLflow records, as its own settings say.

    Raises:
        UserError: MLflow is missing.
    """
    # The project's folder mlflow/ makes `import mlflow` succeed, emptily, where MLflow is not installed.
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise UserError("MLflow is not installed: pip install 'gram-gauss-newton'")
    from mlflow import get_tracking_uri

    return str(get_tracking_uri())


class RecordedSuite(NamedTuple):
    """The runs of one suite that were recorded at a commit.

    Attributes:
        suite: Its name, the experiment's.
        experiment_id: Of MLflow.
        runs: Their ids, newest first.
    """

    suite: str
    experiment_id: str
    runs: list[str]


def recorded_at(commits: Collection[str]) -> dict[str, list[RecordedSuite]]:
    """Commit → what was recorded of it, by suite; empty where nothing is recorded yet. Creates no store.

    Raises:
        TrackingError: The tracking store does not answer.
    """
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        return {}
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return {}
    found: dict[str, dict[str, RecordedSuite]] = {}
    with _translated():
        client = MlflowClient()
        for experiment in client.search_experiments():
            token = None
            while True:
                page = client.search_runs(
                    [experiment.experiment_id], "tags.`ggn.commit` LIKE '%'", max_results=1000, page_token=token
                )
                for run in page:
                    commit = run.data.tags["ggn.commit"]
                    if commit in commits:
                        suites = found.setdefault(commit, {})
                        entry = RecordedSuite(experiment.name, experiment.experiment_id, [])
                        suites.setdefault(experiment.name, entry).runs.append(run.info.run_id)
                token = page.token
                if not token:
                    break
    return {commit: list(suites.values()) for commit, suites in found.items()}


@contextmanager
def _translated() -> Iterator[None]:
    """MLflow's errors, and those of the libraries below it, as one."""
    try:
        yield
    except Exception as error:
        raise TrackingError(f"the tracking store failed: {_first_line(error)}") from error


def _source() -> dict[str, str]:
    """What MLflow's page shows as user, source and version."""
    facts = commit()
    source = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "ggn", "mlflow.source.type": "LOCAL"}
    return source | ({"mlflow.source.git.commit": str(facts["commit"])} if facts["commit"] else {})


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
