"""What is recorded in MLflow: how it is found again, and what happens to numbers and clocks that are not plain."""

import math
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tracked import SUITE, make_result, runs, trials_of, wait_until
from trials import make_trial

from harness.compare import compare
from harness.connection import tracking_uri
from harness.errors import UserError
from harness.progress import Reporter
from harness.runner import Runner
from harness.stepcost_suite import StepCostSuite
from harness.store import Store
from harness.studies import study
from harness.suite import Suite
from harness.sweep import EVALUATION, TUNING
from harness.sync import remembered, sync
from harness.tracking import Tracker, TrackingError
from harness.training import train
from harness.training_suite import TrainingSuite
from harness.trial import Outcome, StepCosts, TrialResult

TRIALS = trials_of(SUITE)


@pytest.fixture
def tracker(workplace: Path) -> Iterator[Tracker]:
    tracker = Tracker(SUITE, claims=["faster"])
    tracker.begin()
    yield tracker
    tracker.end("FINISHED")


def test_runs_are_found_by_what_a_team_asks_for(tracker: Tracker) -> None:
    import mlflow

    for trial in TRIALS:
        tracker.record(make_result(trial), EVALUATION)
    tracker.end("FINISHED")
    parent, *children = sorted(runs(), key=lambda run: run.data.tags["ggn.kind"] != "invocation")
    assert len(children) == len(TRIALS)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    for condition, expected in [
        ("tags.`ggn.claim` = 'faster'", 5),
        ("tags.`ggn.claim` IS NOT NULL", 5),
        ("tags.`ggn.suite` = 'small'", 5),
        (f"tags.`ggn.configuration` = '{parent.data.tags['ggn.configuration']}'", 5),
        (f"tags.`ggn.commit` = '{'a' * 40}' AND tags.`ggn.dirty` = 'False'", 4),
        (f"tags.`ggn.trial` = '{TRIALS[0].id}'", 1),
        ("tags.`environment.cpu` = 'a CPU' AND params.`method.name` = 'ggn'", 2),
        ("metrics.epochs_to_target = 1 AND dataset.name = 'teacher_student'", 4),
        ("tags.`ggn.claim` = 'slower'", 0),
    ]:
        found = mlflow.search_runs(experiment_names=["small"], filter_string=condition, output_format="list")
        assert len(found) == expected, condition


def test_the_hash_of_the_configuration_follows_the_suite(workplace: Path) -> None:
    for suite in (SUITE, SUITE, SUITE.model_copy(update={"target": 0.25})):
        tracker = Tracker(suite)
        tracker.begin()
        tracker.end("FINISHED")
    configurations = {run.data.tags["ggn.configuration"] for run in runs()}
    assert len(runs()) == 3
    assert len(configurations) == 2


def test_nan_and_infinity_do_not_reach_mlflow_and_are_not_lost(tracker: Tracker) -> None:
    result = make_result(TRIALS[0], losses=(1.0, math.nan, math.inf, 0.4), peak_memory_mib=math.inf)
    tracker.record(result, EVALUATION)
    (run,) = [run for run in runs() if "ggn.trial" in run.data.tags]
    assert run.data.metrics["epochs_to_target"] == 3
    assert "peak_memory_mib" not in run.data.metrics
    assert all(math.isfinite(value) and abs(value) < 1e300 for value in run.data.metrics.values())
    from mlflow import MlflowClient

    history = MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (18, 0.4)]
    loaded = Tracker(SUITE).load(result.trial.id)
    assert loaded is not None
    assert loaded.curve.train_loss == pytest.approx(result.curve.train_loss, nan_ok=True)
    assert loaded.peak_memory_mib == math.inf


def test_the_loss_runs_along_steps_samples_and_gradients(tracker: Tracker) -> None:
    losses = (1.0, 0.9, 0.8)
    tracker.record(make_result(TRIALS[0], losses, gradient_seconds=0.25), EVALUATION)
    (run,) = [run for run in runs() if "ggn.trial" in run.data.tags]
    from mlflow import MlflowClient

    for key, steps in {"": (0, 6, 12), "_by_samples": (0, 96, 192), "_by_gradients": (0, 4, 8)}.items():
        history = MlflowClient().get_metric_history(run.info.run_id, f"train_loss{key}")
        assert [(point.step, point.value) for point in history] == list(zip(steps, losses, strict=True))
    assert run.data.metrics["gradient_seconds"] == 0.25
    assert run.data.metrics["target_censored"] == 1  # what was spent stands for the time to a target that was missed
    assert run.data.metrics["gradients_to_target"] == 8


def test_a_clock_that_jumps_loses_and_doubles_nothing(tracker: Tracker, workplace: Path) -> None:
    store = Store(workplace)
    jumped = [make_result(TRIALS[0], started=started, wall_seconds=-3600.0) for started in (1.9e9, 1.6e9)]
    for result in jumped:
        store.save(result)
        tracker.record(result, EVALUATION)
    for reader in (tracker, Tracker(SUITE)):
        assert all(reader.holds(result) for result in jumped)
    for run in runs():
        assert run.info.end_time is None or run.info.end_time >= run.info.start_time
    assert sync(SUITE, store, Tracker(SUITE), workplace / "none").recorded == 0


def test_a_trial_takes_no_negative_time_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
    hours = iter(range(10**6))
    assert 0 < train(make_trial()).wall_seconds < 600


def test_another_claim_suite_or_outcome_is_not_taken_for_the_same(tracker: Tracker) -> None:
    result = make_result(TRIALS[0])
    tracker.record(result, EVALUATION)
    assert tracker.holds(result)
    assert not tracker.holds(result.model_copy(update={"outcome": Outcome.CRASHED}))
    assert not tracker.holds(result.model_copy(update={"started": result.started + 1}))
    assert not Tracker(SUITE.model_copy(update={"target": 0.1})).holds(result)
    assert not Tracker(SUITE.model_copy(update={"suite": "other"})).holds(result)


def test_results_found_before_are_found_by_the_claims_they_serve(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    store = Store(workplace)

    def run(*claims: str) -> tuple[Any, list[dict[str, Any]]]:
        """The parent of an invocation for these claims, and its list of trials."""
        known = {run.info.run_id for run in runs()}
        reporter = Reporter(SUITE.size(), Console(quiet=True))
        Runner(SUITE, store, Tracker(SUITE, claims), reporter).run(study(SUITE).walk)
        new = [run for run in runs() if run.info.run_id not in known]
        (parent,) = [run for run in new if run.data.tags["ggn.kind"] == "invocation"]
        return parent, mlflow.artifacts.load_dict(f"runs:/{parent.info.run_id}/trials.json")

    def found(condition: str) -> set[str]:
        whole = f"{condition} AND tags.`ggn.role` = 'evaluation'"
        listed = mlflow.search_runs(experiment_names=["small"], filter_string=whole, output_format="list")
        return {run.info.run_id for run in listed}

    ordinary, first = run()
    assert [entry["reused"] for entry in first] == [False] * len(TRIALS)
    assert "ggn.claim" not in ordinary.data.tags
    children = {run.info.run_id: run.data.tags["ggn.trial"] for run in runs() if "ggn.trial" in run.data.tags}
    assert {entry["run_id"]: entry["trial"] for entry in first} == children
    assert not found("tags.`ggn.claim` LIKE '%faster%'")
    parent, entries = run("faster")
    assert parent.data.tags["ggn.claim"] == "faster"
    assert [entry | {"reused": False} for entry in entries] == first
    assert all(entry["reused"] for entry in entries)
    assert found("tags.`ggn.claim` = 'faster'") == set(children)
    run("better", "cheaper")
    for claim in ("faster", "better", "cheaper"):
        assert found(f"tags.`ggn.claim` LIKE '%{claim}%'") == set(children)
        assert len(compare(["small"], where=[f"claim={claim}"]).rows) == 2
    with pytest.raises(UserError, match="no run has claim=fast"):
        compare(["small"], where=["claim=fast"])
    with monkeypatch.context() as strict:  # what is there is not set again
        strict.setattr("mlflow.MlflowClient.set_tag", _fail)
        run("faster", "cheaper")


def test_sync_knows_the_claims(workplace: Path) -> None:
    store = Store(workplace)
    store.remember(SUITE, ["faster"])
    store.save(make_result(TRIALS[0]))
    ((suite, claims),) = remembered(store)
    sync(suite, store, Tracker(suite, claims), workplace / "none")
    assert {run.data.tags["ggn.claim"] for run in runs()} == {"faster"}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_can_be_recorded(outcome: Outcome, tracker: Tracker) -> None:
    result = make_result(TRIALS[0], outcome=outcome)
    tracker.record(result, EVALUATION)
    assert Tracker(SUITE).holds(result)


def test_a_step_cost_trial_is_recorded_and_synced(workplace: Path) -> None:
    shared = {key: value for key, value in SUITE.model_dump().items() if key in Suite.model_fields}
    suite = StepCostSuite.model_validate(shared | {"measure": "step_cost", "seeds": (0,)})
    (cell,) = suite.cells()
    costs = StepCosts(step=[[1.0, 2.0], [3.0, 4.0]], again=[1.0, 1.0], gradient=[0.5, 0.5], memory_mib=[1.0, None])
    store = Store(workplace)
    store.remember(suite)
    assert remembered(store) == [(suite, ())]
    result = TrialResult(trial=suite.trial(cell, 0), outcome=Outcome.COMPLETED, costs=costs, started=1.7e9)
    store.save(result)
    assert sync(suite, store, Tracker(suite), workplace / "none") == (1, 0, 0)
    (run,) = [run for run in runs() if run.data.tags["ggn.kind"] == "step_cost"]
    assert run.data.metrics["step_seconds.0.ggn"] == 1.5
    assert Tracker(suite).load(result.trial.id) == result
    (row,) = compare(["small"]).rows
    assert {key: value.median for key, value in row.metrics.items()} == {
        "gradient_seconds": 0.5, "step_seconds.0.ggn": 1.5, "step_seconds.1.sgd": 3.5,
    }  # fmt: skip


def test_a_run_left_half_written_does_not_count(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(tracker._client, "log_text", _fail)
        with pytest.raises(TrackingError, match="out of order"):
            tracker.record(make_result(TRIALS[0]), EVALUATION)
    assert not tracker.holds(make_result(TRIALS[0]))
    assert [run.info.status for run in runs() if "ggn.trial" in run.data.tags] == ["RUNNING"]
    tracker.end("FINISHED")
    assert [run.info.status for run in runs() if "ggn.trial" in run.data.tags] == ["KILLED"]
    assert not Tracker(SUITE).holds(make_result(TRIALS[0]))


def _fail(*arguments: Any) -> None:
    raise OSError("out of order")


def test_the_run_of_mlflow_run_becomes_the_invocations(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = Tracker(SUITE).experiment_id
    for place, adopted in ((experiment, True), ("0", False)):
        given = client.create_run(place, tags={"mlflow.project.entryPoint": "main"}).info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", given)
        tracker = Tracker(SUITE)
        tracker.begin()
        tracker.record(make_result(TRIALS[0]), EVALUATION)
        tracker.end("FINISHED")
        run = client.get_run(given)
        assert run.info.status == ("FINISHED" if adopted else "RUNNING")
        assert (run.data.tags.get("ggn.kind") == "invocation") == adopted
        assert (tracker._parent == given) == adopted
        assert run.data.tags["mlflow.project.entryPoint"] == "main"
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(TrackingError, match="0" * 32):
        Tracker(SUITE).begin()


def test_system_metrics_are_recorded_on_request(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    for wanted in (False, True):
        tracker = Tracker(SUITE, system_metrics=wanted)
        tracker.begin()
        monitor = tracker._monitor
        assert (monitor is not None) == wanted
        if monitor is not None:
            wait_until(partial(_has_logged, monitor))
        tracker.end("FINISHED")
    plain, measured = sorted(runs(), key=lambda run: len(run.data.metrics))
    assert not plain.data.metrics
    assert measured.data.metrics["system/system_memory_usage_percentage"] > 0


def _has_logged(monitor: Any) -> bool:
    return bool(monitor._logging_step > 1)


def test_a_locked_database_makes_results_wait(tracker: Tracker, workplace: Path) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def impatient(connection: Any, cursor: Any, statement: str, *rest: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 200"), rest[0]

    store = Store(workplace)
    result = make_result(TRIALS[0])
    store.save(result)
    event.listen(Engine, "before_cursor_execute", impatient, retval=True)
    other = sqlite3.connect(workplace / "mlflow.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TrackingError, match="database is locked") as raised:
            tracker.record(result, EVALUATION)
        assert "\n" not in str(raised.value)
        other.execute("ROLLBACK")
    finally:
        other.close()
        event.remove(Engine, "before_cursor_execute", impatient)
    assert sync(SUITE, store, tracker, workplace / "none")[:2] == (1, 0)
    assert Tracker(SUITE).holds(result)


def test_sync_knows_the_roles_of_a_searched_suite(workplace: Path) -> None:
    tuning = {"seeds": [1000], "budget": {"epochs": 1}, "spaces": {"ggn": {"lr": [0.5, 1.0]}, "sgd": {"lr": [0.1, 1]}}}
    suite = TrainingSuite.model_validate(SUITE.model_dump() | {"tuning": tuning})
    store = Store(workplace)
    (cell,) = suite.cells()
    searched = [
        trial for method in suite.methods for _, trials in suite.tuning_trials(cell, method) for trial in trials
    ]
    for trial in searched:
        store.save(make_result(trial, losses=(1.0, 0.9, 1.0 / (1 + trial.method.lr))))
    for seed in suite.seeds:  # GGN's search chose lr 1.0; SGD's first seed is still missing
        store.save(make_result(suite.trial(cell, suite.candidates(suite.methods[0])[1], seed)))
    store.save(make_result(suite.trial(cell, suite.candidates(suite.methods[1])[1], 1)))
    assert sync(suite, store, Tracker(suite), workplace / "none") == (7, 0, 1)
    roles = [run.data.tags["ggn.role"] for run in runs() if "ggn.trial" in run.data.tags]
    assert (roles.count(TUNING), roles.count(EVALUATION)) == (4, 3)
    assert sync(suite, store, Tracker(suite), workplace / "none") == (0, 7, 1)
    assert {run.info.status for run in runs()} == {"FINISHED"}


def test_the_report_goes_with_what_is_synced(workplace: Path) -> None:
    from mlflow import MlflowClient

    (workplace / "report").mkdir()
    (workplace / "report" / "index.html").write_text("<p>page")
    Store(workplace).save(make_result(TRIALS[0]))
    sync(SUITE, Store(workplace), Tracker(SUITE), workplace / "report")
    (parent,) = [run for run in runs() if run.data.tags["ggn.kind"] == "invocation"]
    assert [file.path for file in MlflowClient().list_artifacts(parent.info.run_id, "report")] == ["report/index.html"]


def test_passwords_are_not_shown(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:se%3Acret@127.0.0.1:9/path")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert tracking_uri() == "http://ada:***@127.0.0.1:9/path"
    with pytest.raises(UserError) as raised:
        Tracker(SUITE)
    assert "cret" not in str(raised.value)


def test_a_suite_is_remembered_as_it_was_read(workplace: Path) -> None:
    store = Store(workplace)
    store.remember(SUITE)
    assert remembered(store) == [(SUITE, ())]
    (store.suites / "old.json").write_text('{"suite": "old", "measure": "training", "gone": 1}')
    with pytest.raises(UserError, match=r"old\.json: written by another version"):
        remembered(store)


def test_a_result_that_cannot_be_written_is_told_and_leaves_nothing(workplace: Path) -> None:
    import resource

    store = Store(workplace)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(UserError, match="cannot be written: File too large"):
            store.save(make_result(TRIALS[0]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(store.trials.iterdir()) == []


def test_infinite_results_come_back_from_disk(workplace: Path) -> None:
    store = Store(workplace)
    result = make_result(TRIALS[0], losses=(1.0, math.inf))
    store.save(result)
    assert store.load(result.trial.id) == result
