"""What the tests of tracking share: a small suite, made-up results of it, and what MLflow holds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from trials import PROBLEM

from harness.training_suite import TrainingSuite
from harness.trial import Curve, DataRecord, Outcome, TrainingTrial, TrialResult

__all__ = ["SUITE", "SUITE_FILE", "make_result", "mlflow_server", "runs", "trials_of", "wait_until"]

SUITE = TrainingSuite.model_validate(
    {
        "suite": "small",
        "question": "Is it recorded?",
        "problem": ({**PROBLEM, "width": 4},),
        "batch_size": (16,),
        "threads": (1,),
        "methods": ({"name": "ggn"}, {"name": "sgd"}),
        "seeds": (0, 1),
        "budget": {"epochs": 2},
        "target": 0.5,
    }
)

# The same, as a user writes it.
SUITE_FILE = """\
suite: small
question: Is it recorded?
problem: {name: teacher_student, width: 4, inputs: 4, samples: 100, test_samples: 50}
batch_size: 16
threads: 1
methods: [ggn, sgd]
seeds: 2
budget: {epochs: 2}
target: 0.5
"""


def trials_of(suite: TrainingSuite) -> list[TrainingTrial]:
    """All evaluation trials of a suite without tuning."""
    return [
        suite.trial(cell, method, seed) for cell in suite.cells() for method in suite.methods for seed in suite.seeds
    ]


def make_result(trial: TrainingTrial, losses: tuple[float, ...] = (1.0, 0.4), **changes: Any) -> TrialResult:
    """A completed trial with this training loss after each epoch, a second apart."""
    points = range(len(losses))
    fields: dict[str, Any] = {
        "trial": trial,
        "outcome": Outcome.COMPLETED,
        "curve": Curve(
            step=[6 * i for i in points],
            samples=[96 * i for i in points],
            epoch=[float(i) for i in points],
            seconds=[float(i) for i in points],
            train_loss=list(losses),
            test_rmse=[2 * loss for loss in losses],
        ),
        "data": DataRecord(
            name="teacher_student",
            source="drawn at random",
            digest=f"seed-{trial.seed:08x}",
            train_samples=100,
            test_samples=50,
            inputs=4,
            target="teacher's output",
        ),
        "wall_seconds": 2.0,
        "environment": {"commit": "a" * 40, "dirty": False, "cpu": "a CPU", "torch": "2.13.0"},
        "started": 1_700_000_000.0,
    }
    return TrialResult.model_validate(fields | changes)


def runs(suite: str = "small", uri: str | None = None) -> "list[Any]":
    """All runs of a suite's experiment, oldest first; of the store in force, if no other is named."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(suite)
    if experiment is None:
        return []
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"], max_results=1000)
    return list(found)


@contextmanager
def mlflow_server(command: list[str], port: int, log: Path, **variables: str) -> Iterator[str]:
    """``mlflow server`` with these arguments on a loopback port, ended with all its workers."""
    start = [sys.executable, "-m", "mlflow", *command]
    # Of what a server can do, the tests need tracking alone.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | variables
    with log.open("w") as output:
        process = subprocess.Popen(start, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or _is_healthy(address), 120)
        assert process.poll() is None, log.read_text()
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _is_healthy(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Until the condition holds.

    Raises:
        AssertionError: It does not within the time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.05)
