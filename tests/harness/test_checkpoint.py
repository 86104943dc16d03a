"""A training that is killed and gone on with is the training that was never killed."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from harness import checkpoint, course
from harness.checkpoint import Checkpoint
from harness.engine.local import LocalEngine
from harness.environment import environment
from harness.methods import SgdSettings, make_method
from harness.progress import Reporter
from harness.store import Store
from harness.suite import Limits
from harness.training import train
from harness.trial import Outcome, TrainingTrial

# Trains a trial, keeps its state after every epoch, and is killed in the fourth.
CHILD = """
import os, signal, sys
from pathlib import Path

from harness import checkpoint, course
from harness.store import Store
from harness.suite import Limits
from harness.training import train
from harness.trial import TrainingTrial

checkpoint.EVERY_SECONDS = 0.0
evaluate = course.Course._evaluate


def evaluate_or_die(self):
    if self._epoch == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(self)


course.Course._evaluate = evaluate_or_die
train(TrainingTrial.model_validate_json(sys.argv[1]), checkpoint_path=Path(sys.argv[2]))
"""


def _trial(method: dict[str, Any]) -> TrainingTrial:
    problem = {"name": "teacher_student", "width": 8, "samples": 64, "test_samples": 16}
    return TrainingTrial.model_validate(
        {"problem": problem, "method": method, "budget": {"epochs": 6}, "batch_size": 16, "threads": 1, "seed": 3}
    )


def _killed(trial: TrainingTrial, path: Path) -> Path:
    """Its checkpoint."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, trial.model_dump_json(), str(path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert child.returncode == -signal.SIGKILL
    return path


METHODS = {
    "ggn": {"name": "ggn", "momentum": 0.9, "search": "levenberg_marquardt"},
    "sgd": {"name": "sgd"},
    "adam": {"name": "adam"},
}


@pytest.mark.parametrize("method", METHODS)
def test_killed_it_ends_bit_for_bit_as_if_it_had_not_been(method: str, tmp_path: Path) -> None:
    trial = _trial(METHODS[method])
    resumed, whole = train(trial, checkpoint_path=_killed(trial, tmp_path / "checkpoint")), train(trial)
    assert (resumed.resumed_after, whole.resumed_after) == ([3], [])
    assert resumed.curve.model_copy(update={"seconds": []}) == whole.curve.model_copy(update={"seconds": []})
    assert resumed.curve.seconds == sorted(resumed.curve.seconds)


class _Noisy:
    """Draws from torch's global generator."""

    def __init__(self, model: nn.Module):
        self._method: Any = make_method(model, SgdSettings())
        self.state_dict, self.load_state_dict = self._method.state_dict, self._method.load_state_dict

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        self._method.step(inputs, targets + torch.randn_like(targets))


def test_random_numbers_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "make_method", lambda model, _: _Noisy(model))
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    trial, path = _trial(METHODS["sgd"]), tmp_path / "checkpoint"
    whole = train(trial, checkpoint_path=path)  # leaves what it was before its last epoch
    torch.manual_seed(99)
    resumed = train(trial, checkpoint_path=path)
    assert resumed.resumed_after == [5]
    assert resumed.curve.train_loss == whole.curve.train_loss


def test_what_cannot_be_gone_on_with_starts_over(tmp_path: Path) -> None:
    """Damaged, of another code, or no checkpoint at all."""
    trial = _trial(METHODS["adam"])
    path = _killed(trial, tmp_path / "checkpoint")
    facts = environment()
    assert Checkpoint(path, facts).load() is not None
    assert Checkpoint(path, facts | {"code": "another"}).load() is None
    assert Checkpoint(path, facts | {"cpu": "another"}).load() is None
    assert Checkpoint(tmp_path / "missing", facts).load() is None
    content = path.read_bytes()
    for damaged in (b"", b"rubbish", content[: len(content) // 2], json.dumps({"state": {}}).encode()):
        path.write_bytes(damaged)
        assert Checkpoint(path, facts).load() is None
    torch.save([1, 2], path)
    result = train(trial, checkpoint_path=path)
    assert (result.outcome, result.resumed_after, len(result.curve.epoch)) == (Outcome.COMPLETED, [], 7)


def test_it_is_written_only_when_the_last_one_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trial.checkpoint"
    train(_trial(METHODS["sgd"]), checkpoint_path=path)
    assert not path.exists()
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    train(_trial(METHODS["sgd"]), checkpoint_path=path)
    kept = Checkpoint(path, environment()).load()
    assert kept is not None
    assert kept["epoch"] == 5  # after the last epoch there is nothing to go on with


def test_one_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    result = train(_trial(METHODS["sgd"]), checkpoint_path=tmp_path / "missing" / "trial.checkpoint")
    assert result.outcome is Outcome.COMPLETED
    assert "the training under way cannot be kept" in capfd.readouterr().err


def test_the_terminal_tells_of_it_and_wall_time_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = _trial(METHODS["adam"])
    path = _killed(trial, tmp_path / "checkpoint")
    kept = torch.load(path, weights_only=True)
    kept["state"]["wall_seconds"] = 1000.0
    torch.save(kept, path)
    result = train(trial, checkpoint_path=path)
    assert 1000 < result.wall_seconds < 1100
    printed = io.StringIO()
    with Reporter(1, Console(file=printed)) as reporter:
        reporter.end(trial, "evaluation", result, reused=False)
    assert printed.getvalue().endswith(" s, gone on after epoch 3\n")


def test_the_engine_goes_on_from_it_and_clears_it_away(tmp_path: Path) -> None:
    trial, store = _trial(METHODS["adam"]), Store(tmp_path)
    path = _killed(trial, store.checkpoint_path(trial.id))
    result = LocalEngine(store, Limits()).run(trial)
    assert result.resumed_after == [3]
    assert not path.exists()
