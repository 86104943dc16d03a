"""``ggn compare``: what it pools, what it keeps apart, and what it answers to names that are not there."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tracked import SUITE, make_result, trials_of

from harness.cli import main
from harness.compare import compare
from harness.sweep import EVALUATION, TUNING
from harness.tracking import Tracker
from harness.training_suite import TrainingSuite
from harness.trial import Curve, Outcome

CELLS = TrainingSuite.model_validate(
    SUITE.model_dump() | {"problem": [{**SUITE.problem[0].model_dump(), "width": width} for width in (16, 4)]}
)
OLD, NEW = "a" * 40, "b" * 40


def _environment(commit: str, **changes: Any) -> dict[str, Any]:
    return {"commit": commit, "dirty": False, "cpu": "one", "torch": "2.13", "code": commit[:16]} | changes


def _loss(commit: str, seed: int) -> float:
    return (0.4 if commit == OLD else 0.3) + 0.05 * seed


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> str:
    """Two commits in both cells: GGN meets the target at once, SGD misses it on its second seed."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('recorded')}/mlflow.db"
    Path(uri.removeprefix("sqlite:///")).write_bytes(migrated_database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        tracker = Tracker(CELLS)
        tracker.begin()
        for started, commit in ((1.72e9, NEW), (1.71e9, OLD)):
            for trial in trials_of(CELLS):
                missed = trial.method.name == "sgd" and trial.seed == 1
                losses = (1.0, 0.9 if missed else _loss(commit, trial.seed))
                result = make_result(trial, losses=losses, started=started, environment=_environment(commit))
                tracker.record(result, EVALUATION)
        tracker.end("FINISHED")
    return uri


@pytest.fixture
def ggn(recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``ggn compare`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recorded)
    return lambda *arguments: CliRunner().invoke(main, ["compare", *arguments])


@pytest.fixture
def tracker(workplace: Path) -> Tracker:
    tracker = Tracker(SUITE)
    tracker.begin()
    return tracker


def test_rows_are_cells_methods_and_commits(ggn: Callable[..., Result]) -> None:
    rows = json.loads(ggn("small", "--json").stdout)
    facts = [(row["problem.width"], row["method"], row["commit"]) for row in rows]
    assert facts == [(w, m, c) for w in ("4", "16") for m in ("ggn", "sgd") for c in (OLD[:8], NEW[:8])]
    for row in rows:
        assert row["runs"] == len(row["run_ids"]) == 2
        assert row["met_target"] == (2 if row["method"] == "ggn" else 1)
        commit = OLD if row["commit"] == OLD[:8] else NEW
        if row["method"] == "ggn":
            rmse = row["metrics"]["best_test_rmse"]
            assert rmse["median"] == pytest.approx(median(2 * _loss(commit, seed) for seed in (0, 1)))
            assert row["metrics"]["epochs_to_target"] == {"median": 1, "low": 1, "high": 1, "size": 2}
        else:  # of two, one missed: the median has no finite value, nor has the interval's end
            assert row["metrics"]["epochs_to_target"] == {"median": None, "low": 1, "high": None, "size": 2}


def test_the_table_shows_what_sets_rows_apart(ggn: Callable[..., Result]) -> None:
    shown = ggn().stdout
    header = shown.splitlines()[2]
    for word in ("width", "method", "commit", "runs", "epochs to target"):
        assert word in header
    for word in ("lr", "torch", "cpu", "batch", "suite"):
        assert word not in header
    assert shown.count(OLD[:8]) == shown.count(NEW[:8]) == 4
    assert "missed [1, missed]" in shown


def test_by_and_where(ggn: Callable[..., Result]) -> None:
    rows = json.loads(ggn("--by", "method", "--by", "width", "--where", "commit=aaaaaaaaa", "--json").stdout)
    assert [(row["method"], row["problem.width"], row["runs"]) for row in rows] == [
        ("ggn", "4", 2), ("ggn", "16", 2), ("sgd", "4", 2), ("sgd", "16", 2),
    ]  # fmt: skip
    rows = json.loads(ggn("--by", "commit", "--where", "method=ggn", "--where", "method=sgd", "--json").stdout)
    assert [(row["commit"], row["runs"]) for row in rows] == [(OLD[:8], 8), (NEW[:8], 8)]
    rows = json.loads(ggn("--where", "lr=1", "--where", "width=4.0", "--metric", "final_train_loss", "--json").stdout)
    assert [list(row["metrics"]) for row in rows] == [["final_train_loss"]] * 2
    assert {row["method"] for row in rows} == {"ggn"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smal"], ["suite 'smal' (did you mean 'small'?)", "sqlite:///"]),
        (["--metric", "epoch_to_target"], ["did you mean 'epochs_to_target'?", "best_test_rmse"]),
        (["--by", "commits"], ["--by: unknown key 'commits' (did you mean 'commit'?)", "problem.width"]),
        (["--where", "method=adam"], ["no run has method=adam", "recorded: ggn, sgd"]),
        (["--where", "methods=ggn"], ["--where: unknown key 'methods' (did you mean 'method'?)"]),
        (["--where", "ggn"], ["KEY=VALUE", "'ggn'"]),
    ],
)
def test_mistakes_are_answered_with_what_is_there(
    ggn: Callable[..., Result], arguments: list[str], words: list[str]
) -> None:
    done = ggn(*arguments)
    assert done.exit_code == 2
    assert all(word in done.stderr for word in ["error:", *words])


def test_other_machines_code_and_targets_are_not_pooled(tracker: Tracker) -> None:
    trial = trials_of(SUITE)[0]
    environments = [
        _environment(OLD),
        _environment(OLD, cpu="two"),
        _environment(OLD, torch="2.14"),
        _environment(OLD, dirty=True),
        _environment(OLD, dirty=True, code="c" * 16),
        _environment(NEW),
    ]
    for environment in environments:
        tracker.record(make_result(trial, environment=environment), EVALUATION)
    other = Tracker(SUITE.model_copy(update={"target": 0.3}))
    other.begin()
    other.record(make_result(trial, environment=_environment(OLD)), EVALUATION)
    rows = compare([]).rows
    assert [row.trials for row in rows] == [1] * (len(environments) + 1)


def test_the_newest_run_of_a_trial_counts_and_only_evaluations_do(tracker: Tracker) -> None:
    trial, other, *_ = trials_of(SUITE)
    for started, loss in ((1.71e9, 0.4), (1.73e9, 0.2), (1.72e9, 0.3)):
        tracker.record(make_result(trial, losses=(1.0, loss), started=started), EVALUATION)
    tracker.record(make_result(other, losses=(1.0, 0.1)), TUNING)
    skipped = make_result(other, outcome=Outcome.SKIPPED, curve=Curve(), reason="no such device")
    tracker.record(skipped, EVALUATION)
    (row,) = compare(["small"], metrics=["final_train_loss"]).rows
    assert row.trials == 1
    assert row.metrics["final_train_loss"].median == 0.2


def test_other_data_of_the_same_name_is_not_pooled(tracker: Tracker) -> None:
    trial, other, *_ = trials_of(SUITE)
    result = make_result(trial)
    assert result.data is not None
    for given, digest in ((trial, "d"), (other, "e")):
        data = result.data.model_copy(update={"digest": digest})
        tracker.record(make_result(given, data=data), EVALUATION)
    assert [row.facts["data_digest"] for row in compare([]).rows] == ["d", "e"]


def test_a_failed_trial_counts_as_infinite(tracker: Tracker) -> None:
    first, second, *_ = trials_of(SUITE)
    tracker.record(make_result(first), EVALUATION)
    tracker.record(make_result(second, outcome=Outcome.TIMEOUT, curve=Curve()), EVALUATION)
    (row,) = compare([]).rows
    assert (row.trials, row.hits) == (2, 1)
    assert row.metrics["best_test_rmse"][:3] == (float("inf"), 0.8, float("inf"))


def test_settings_that_differ_are_shown_with_the_method(tracker: Tracker) -> None:
    (cell,) = SUITE.cells()
    ggn, sgd = SUITE.methods
    for method in (ggn, ggn.model_copy(update={"lr": 0.5}), sgd):
        tracker.record(make_result(SUITE.trial(cell, method, 0)), EVALUATION)
    shown = CliRunner().invoke(main, ["compare"]).stdout
    assert "ggn lr 0.5" in shown
    assert "ggn lr 1.0" in shown
    assert "sgd lr" not in shown


def test_nothing_recorded_yet(workplace: Path) -> None:
    done = CliRunner().invoke(main, ["compare"])
    assert done.exit_code == 2
    assert "nothing is recorded in sqlite:///" in done.stderr
