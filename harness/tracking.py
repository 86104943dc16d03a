"""Records trials in MLflow, and reads them back; records.py says what MLflow is told.

One experiment a suite, one parent run an invocation, one child run a trial. Only the parent process records, after a
trial has ended, so nothing is logged inside a timed region. The child's artifact ``trial.json`` is the whole result.
What an invocation finds recorded already stays the child of an earlier one; its parent run's ``trials.json`` names it.
"""

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from . import records
from .connection import TrackingError, answering, connect, search, tracking_uri, translated
from .environment import environment
from .suite import Suite
from .sweep import EVALUATION
from .trial import Outcome, TrialResult

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

__all__ = ["Tracker", "TrackingError", "tracking_uri"]

ARTIFACT = "trial.json"
CLAIM = "ggn.claim"
BATCH = 1000  # MLflow's limit on the metrics of one request


class _Record(NamedTuple):
    """A trial's run in MLflow; ``started`` in milliseconds since the epoch, ``tags`` as they were when it was read."""

    run_id: str
    outcome: Outcome
    started: int
    tags: dict[str, str]

    def is_of(self, result: TrialResult) -> bool:
        return self.outcome is result.outcome and self.started == records.milliseconds(result.started)


class Tracker:
    """One suite's records.

    Args:
        suite: Its name names the experiment.
        claims: The claims that the trials are run for, a tag of what is recorded.
        system_metrics: Whether the invocation's run also gets this machine's load (CPU, memory, disk, network, GPU).

    Raises:
        UserError: MLflow is missing, or the tracking store does not answer.
    """

    def __init__(self, suite: Suite, claims: Sequence[str] = (), system_metrics: bool = False):
        self.uri = tracking_uri()
        self.suite = suite
        self.claims = tuple(sorted(claims))
        self._parent = ""  # the run of this invocation, once it is open
        self._used: dict[str, dict[str, Any]] = {}  # trial → its run, as trials.json shall have it
        self._system_metrics = system_metrics
        self._monitor: SystemMetricsMonitor | None = None
        # On every run, so that each is found by itself.
        self._shared = {
            "ggn.suite": suite.suite,
            "ggn.configuration": hashlib.sha256(suite.model_dump_json().encode()).hexdigest()[:16],
            **({CLAIM: ", ".join(self.claims)} if claims else {}),
            "ggn.process": _process(),
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": "ggn",
            "mlflow.source.type": "LOCAL",
        }
        self._client = connect()
        with answering():
            found = self._client.get_experiment_by_name(suite.suite)
            if found is None:
                # Without the tag MLflow's page takes an experiment for a chat application's.
                kind = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": suite.question}
                self.experiment_id = self._client.create_experiment(suite.suite, tags=kind)
            else:
                self.experiment_id = found.experiment_id
                if found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(found.experiment_id)
        self._recorded = self._find_recorded()

    def holds(self, result: TrialResult) -> bool:
        """Whether this very result is recorded; of a skip, one record is enough."""
        return self._find(result) is not None

    def has_model(self, result: TrialResult) -> bool:
        """Whether this very result is recorded with the trained model."""
        found = self._recorded.get(result.trial.id, [])
        return any(records.MODEL in record.tags for record in found if record.is_of(result))

    def reuse(self, result: TrialResult, role: str) -> bool:
        """Lists a result that is recorded already in this invocation's ``trials.json``.

        Returns:
            Whether its run lacks the tag of a claim that it serves now.
        """
        record = self._find(result)
        assert record is not None, "only what is held can be reused"
        self._use(record, result, role, reused=True)
        return not _claims_of(record).issuperset(self.claims)

    def add_claims(self, result: TrialResult) -> None:
        """Adds the claims of this invocation to those that a recorded result serves.

        Raises:
            TrackingError: The server refused or did not answer.
        """
        record = self._find(result)
        assert record is not None, "only what is held can be tagged"
        tag = ", ".join(sorted(_claims_of(record).union(self.claims)))
        with translated():
            self._client.set_tag(record.run_id, CLAIM, tag)
        record.tags[CLAIM] = tag

    def load(self, trial_id: str) -> TrialResult | None:
        """The recorded result of a trial; None if there is none, or none that can be read.

        Raises:
            TrackingError: The server refused or did not answer.
        """
        if trial_id not in self._recorded:
            return None
        run_id = self._recorded[trial_id][0].run_id
        from mlflow.artifacts import load_text
        from requests import RequestException

        with translated():
            try:
                return TrialResult.model_validate_json(load_text(f"runs:/{run_id}/{ARTIFACT}"))
            except RequestException as error:  # an OSError too, but of the server
                if error.response is None or error.response.status_code != 404:
                    raise
                return None
            except (OSError, ValidationError):
                return None

    def begin(self) -> None:
        """Opens this invocation's run, the parent of what it records.

        Under ``mlflow run``, which opens one itself, that one is taken, if it belongs to the suite's experiment.
        """
        facts = environment()
        tags = {
            "ggn.kind": "invocation",
            "ggn.commit": str(facts["commit"]),
            "ggn.dirty": str(facts["dirty"]),
            **({"mlflow.source.git.commit": str(facts["commit"])} if facts["commit"] else {}),
            **{f"environment.{key}": str(value) for key, value in facts.items()},
            **self._shared,
        }
        with translated():
            self._close_abandoned()
            self._parent = self._adopt(tags) or self._create_run(self.suite.suite, tags)
            self._client.log_text(self._parent, self.suite.model_dump_json(indent=2), "suite.json")
            if self._system_metrics:
                self._monitor = _start_monitor(self._parent)

    def end(self, status: str) -> None:
        """Closes this invocation's run as "FINISHED", "KILLED" or "FAILED".

        What is still open of its children was broken off, by an interruption or a failing server: it is closed as
        killed, and does not count as recorded.
        """
        if self._monitor is not None:
            self._monitor.finish()  # type: ignore[no-untyped-call]
            self._monitor = None
        with translated():
            for run in list(self._runs("attributes.status = 'RUNNING'")):
                if run.data.tags.get("ggn.process") == _process() and run.info.run_id != self._parent:
                    self._client.set_terminated(run.info.run_id, "KILLED")
            if self._parent:
                try:
                    self._client.log_text(self._parent, json.dumps(list(self._used.values()), indent=1), "trials.json")
                finally:
                    self._client.set_terminated(self._parent, status)

    def record(self, result: TrialResult, role: str, model: Path | None = None) -> None:
        """Adds a child run. Until it is closed it does not count as recorded.

        Args:
            result: What came of a trial.
            role: What the trial was run for.
            model: Where its trained model is, if it was kept; None if it was not.

        Raises:
            TrackingError: The server refused or did not answer; the result stays on disk.
        """
        trial = result.trial
        tags = {
            **self._shared,
            **records.tags(result, role, self.suite),
            "mlflow.parentRunId": self._parent,
        }
        if model is not None:
            tags[records.MODEL] = f"model/{model.name}"
        metrics = records.metrics(result, self.suite, with_curves=role == EVALUATION)
        data = records.dataset(result)
        started = records.milliseconds(result.started)
        with translated():
            run_id = self._create_run(trial.title, tags, started)
            self._client.log_batch(run_id, metrics=metrics[:BATCH], params=records.params(result))
            for begin in range(BATCH, len(metrics), BATCH):
                self._client.log_batch(run_id, metrics=metrics[begin : begin + BATCH])
            if data:
                self._client.log_inputs(run_id, data)
            self._client.log_text(run_id, result.model_dump_json(), ARTIFACT)
            if model is not None:
                self._client.log_artifact(run_id, str(model), "model")
            self._client.set_terminated(run_id, records.STATUS[result.outcome], records.end_time(result))
        record = _Record(run_id, result.outcome, started, tags)
        self._recorded.setdefault(trial.id, []).insert(0, record)
        self._use(record, result, role, reused=False)

    def attach(self, folder: Path) -> None:
        """Keeps the files of ``folder`` with this invocation's run."""
        with translated():
            self._client.log_artifacts(self._parent, str(folder), "report")

    def _find(self, result: TrialResult) -> _Record | None:
        """The record of this very result; of a skip, any."""
        reading = self.suite.reading(result)
        for record in self._recorded.get(result.trial.id, []):
            same = record.is_of(result) or result.outcome is record.outcome is Outcome.SKIPPED
            if same and record.tags.get("ggn.reading", "") == reading:
                return record
        return None

    def _use(self, record: _Record, result: TrialResult, role: str, reused: bool) -> None:
        if result.trial.id not in self._used:
            self._used[result.trial.id] = {
                "trial": result.trial.id,
                "title": result.trial.title,
                "role": role,
                "outcome": str(result.outcome),
                "run_id": record.run_id,
                "reused": reused,
            }

    def _create_run(self, name: str, tags: dict[str, str], started: int | None = None) -> str:
        run = self._client.create_run(self.experiment_id, start_time=started, run_name=name, tags=tags)
        return str(run.info.run_id)

    def _adopt(self, tags: dict[str, str]) -> str:
        """The run that MLFLOW_RUN_ID names, made this invocation's; "" if there is none in this experiment."""
        run_id = os.environ.get("MLFLOW_RUN_ID", "")
        if not run_id or self._client.get_run(run_id).info.experiment_id != self.experiment_id:
            return ""
        from mlflow.entities import RunTag

        self._client.update_run(run_id, status="RUNNING", name=self.suite.suite)
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        return run_id

    def _find_recorded(self) -> dict[str, list[_Record]]:
        """Trial → its records, newest first.

        A run counts once it has been closed as its outcome asks; one that is open, or that was closed because its
        process died, may be half-written.
        """
        recorded: dict[str, list[_Record]] = {}
        for run in self._runs("attributes.status != 'RUNNING'"):
            tags = run.data.tags
            if records.is_whole(run):
                record = _Record(run.info.run_id, Outcome(tags["ggn.outcome"]), run.info.start_time, dict(tags))
                recorded.setdefault(tags["ggn.trial"], []).append(record)
        return recorded

    def _close_abandoned(self) -> None:
        """Closes runs that a killed process of this machine left open."""
        for run in list(self._runs("attributes.status = 'RUNNING'")):
            host, _, process = run.data.tags.get("ggn.process", "").rpartition(":")
            if host == socket.gethostname() and process.isdigit() and not _is_alive(int(process)):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _runs(self, condition: str) -> "Iterator[Run]":
        return search(self._client, [self.experiment_id], condition)


def _claims_of(record: _Record) -> set[str]:
    return set(record.tags[CLAIM].split(", ")) if CLAIM in record.tags else set()


def _start_monitor(run_id: str) -> "SystemMetricsMonitor":
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id)  # type: ignore[no-untyped-call]
    monitor.start()  # type: ignore[no-untyped-call]
    return monitor


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
