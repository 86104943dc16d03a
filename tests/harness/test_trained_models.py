"""``ggn run --log-models``: the trained model goes with its run in MLflow, and gives the recorded error when loaded."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tracked import make_result, runs
from trials import PROBLEM, make_trial

from harness.cli import main
from harness.engine import LocalEngine
from harness.store import Store
from harness.suite import Limits
from harness.sweep import EVALUATION, TUNING
from harness.sync import sync
from harness.tracking import Tracker
from harness.training_suite import TrainingSuite
from harness.trial import Outcome
from harness.worker import _keep

SUITE = """\
suite: small
problem: {name: teacher_student, width: 4, inputs: 4, samples: 100, test_samples: 50}
batch_size: 16
threads: 1
dtype: [float32, float64]
methods: [ggn, sgd]
seeds: 1
budget: {epochs: 2}
target: 0.5
tuning:
  seeds: [1000]
  budget: {epochs: 1}
  spaces: {ggn: {lr: [0.5, 1.0]}, sgd: {lr: [0.01, 0.1]}}
"""
EVALUATIONS = 4  # dtypes × methods
TRIALS = 3 * EVALUATIONS

ONE_METHOD = TrainingSuite.model_validate(
    {
        "suite": "small", "problem": (PROBLEM,), "batch_size": (30,), "threads": (1,), "methods": ({"name": "ggn"},),
        "seeds": 2, "budget": {"epochs": 2}, "target": 1.0,
    }
)  # fmt: skip

PAGE = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()

# Loads the models of the runs it is given, as the documentation says, and prints their root mean squared test errors.
READER = """
import json, sys
errors = {}
for run_id in sys.argv[1:]:
    model, problem = load(run_id)
    with torch.no_grad():
        residuals = model(problem.test.all().inputs) - problem.test.all().targets
    errors[run_id] = float(residuals.double().square().mean().sqrt()) * problem.target_scale
print(json.dumps(errors))
"""


def ggn(*arguments: str) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert "Traceback" not in done.output
    return done


def _documented() -> str:
    """The lines of docs/mlflow.md that load a model."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "weights_only" in block]
    return code.split("model, problem =")[0]


def _read(*run_ids: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", _documented() + READER, *run_ids]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, timeout=120)


def _role(role: str) -> list[Any]:
    return [run for run in runs() if run.data.tags.get("ggn.role") == role]


def _models_on_disk() -> list[Path]:
    return list((Path.cwd() / ".ggn" / "trials").glob("*.pt*"))


def test_a_model_loaded_in_another_process_has_the_recorded_error(workplace: Path) -> None:
    (workplace / "small.yaml").write_text(SUITE)
    done = ggn("run", "small.yaml", "--log-models")
    assert done.exit_code == 0, done.output
    evaluations = _role(EVALUATION)
    assert len(evaluations) == EVALUATIONS
    assert {run.data.tags.get("ggn.model") for run in _role(TUNING)} == {None}
    assert not _models_on_disk()
    read = _read(*(run.info.run_id for run in evaluations))
    assert read.returncode == 0, read.stderr
    errors = json.loads(read.stdout)
    for run in evaluations:
        single = run.data.params["dtype"] == "float32"
        assert errors[run.info.run_id] == pytest.approx(
            run.data.metrics["final_test_rmse"], rel=1e-5 if single else 1e-13
        )
    assert len(set(errors.values())) == EVALUATIONS  # a reader that always loads the same would be noticed


def test_a_file_that_would_run_code_is_refused(workplace: Path) -> None:
    from mlflow import MlflowClient

    trial = make_trial()
    marker, path = workplace / "run", Store(workplace).model_path(trial.id)

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    torch.save({"0.weight": Touch()}, path)
    tracker = Tracker(ONE_METHOD)
    tracker.begin()
    tracker.record(make_result(trial), EVALUATION, path)
    tracker.end("FINISHED")
    (run,) = _role(EVALUATION)
    assert [f.path for f in MlflowClient().list_artifacts(run.info.run_id, "model")] == [run.data.tags["ggn.model"]]
    read = _read(run.info.run_id)
    assert read.returncode == 1
    assert "UnpicklingError" in read.stderr
    assert not marker.exists()


def test_what_was_finished_without_models_is_told_and_run_anew_only_when_asked(workplace: Path) -> None:
    (workplace / "small.yaml").write_text(SUITE)
    assert ggn("run", "small.yaml", "--only", "dtype=float32").exit_code == 0
    trials = workplace / ".ggn" / "trials"
    before = {path.name: path.read_bytes() for path in trials.glob("*.json")}
    told = ggn("run", "small.yaml", "--log-models")
    assert "2 trials ended without a model being kept" in told.output
    assert "ggn run small.yaml --log-models --again models" in told.output
    after = {path.name: path.read_bytes() for path in trials.glob("*.json")}
    assert len(after) == TRIALS
    assert {name: after[name] for name in before} == before
    again = ggn("run", "small.yaml", "--log-models", "--again", "models")
    assert "without a model" not in again.output
    assert f"{TRIALS - 2} of {TRIALS} trials were there already" in again.output
    finished = ggn("run", "small.yaml", "--log-models", "--again", "models")
    assert f"{TRIALS} of {TRIALS} trials were there already" in finished.output
    assert not _models_on_disk()
    assert len({run.data.tags["ggn.trial"] for run in _role(EVALUATION) if "ggn.model" in run.data.tags}) == EVALUATIONS


def test_a_model_waits_on_disk_until_it_is_recorded(workplace: Path) -> None:
    suite, store = ONE_METHOD, Store(workplace)
    tracker = Tracker(suite)
    trials = [suite.trial(cell, suite.methods[0], seed) for cell in suite.cells() for seed in suite.seeds]
    with LocalEngine(store, Limits(), jobs=2) as engine:
        results = {r.trial.id: r for r in engine.run_all(trials, {trials[0].id})}
    assert [path.stem for path in _models_on_disk()] == [trials[0].id]
    assert sync(suite, store, tracker, workplace / "none") == (2, 0, 0)
    assert not _models_on_disk()
    for reader in (tracker, Tracker(suite)):
        assert [reader.has_model(results[trial.id]) for trial in trials] == [True, False]
    anew = results[trials[0].id].model_copy(update={"started": 1.0})
    assert not tracker.has_model(anew)  # of another result of the same trial


def test_a_model_that_a_kill_left_on_disk_is_cleared_away(workplace: Path) -> None:
    """Between the closing of its run and the removal of its file."""
    (workplace / "small.yaml").write_text(SUITE)
    only = ("--only", "method=sgd", "--only", "dtype=float32")
    assert ggn("run", "small.yaml", "--log-models", *only).exit_code == 0
    (run,) = _role(EVALUATION)
    left = Store(workplace).model_path(run.data.tags["ggn.trial"])
    for command in (["sync"], ["run", "small.yaml", *only]):
        left.write_bytes(b"recorded already")
        assert ggn(*command).exit_code == 0
        assert not left.exists()
    assert len(_role(EVALUATION)) == 1


def test_a_model_goes_with_its_own_result_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    engine = LocalEngine(store, Limits(seconds=3))
    for changes, keep, outcome in [
        ({}, False, Outcome.COMPLETED),
        ({"method": {"name": "sgd", "lr": 1e6}}, True, Outcome.DIVERGED),
        ({"budget": {"epochs": 10**9}}, True, Outcome.TIMEOUT),
    ]:
        trial = make_trial(**changes)
        store.model_path(trial.id).write_bytes(b"of an earlier result")
        assert engine.run(trial, keep_model=keep).outcome is outcome
        assert not list(store.trials.glob("*.pt*"))
    trial = make_trial()
    plain, kept = engine.run(trial), engine.run(trial, keep_model=True)
    assert plain.curve.train_loss == kept.curve.train_loss  # asking for it changes no number
    weights = torch.load(store.model_path(trial.id), weights_only=True)
    assert weights.keys() == {f"{layer}.{part}" for layer in (0, 2, 4) for part in ("weight", "bias")}


def test_a_model_that_cannot_be_written_costs_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none" / "model.pt"
    _keep(path, torch.nn.Linear(1, 1))
    assert f"{path}: the trained model cannot be kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("small.yaml", "--again", "models"), "only together with --log-models"),
        (("overhead", "--log-models"), "suite 'overhead' measures step_cost and keeps no trained model"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str, workplace: Path) -> None:
    (workplace / "small.yaml").write_text(SUITE)
    done = ggn("run", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
