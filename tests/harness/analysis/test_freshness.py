"""A report is written anew when anything it is made from has changed, and only then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trials import PROBLEM

from harness.analysis import freshness
from harness.studies import study
from harness.suite import Suite
from harness.training_suite import TrainingSuite
from harness.trial import AnyTrial, Curve, Outcome, TrialResult

SUITE: dict[str, Any] = {
    "suite": "twice",
    "problem": (PROBLEM,),
    "batch_size": (8,),
    "threads": (1,),
    "methods": ({"name": "ggn"}, {"name": "sgd"}),
    "seeds": range(6),
    "target": 0.5,
    "tuning": {"seeds": (9,), "spaces": {"ggn": {"lr": [0.5, 1.0]}, "sgd": {"lr": [0.1, 0.2]}}},
}
WHERE = "sqlite:///x", "twice"


def _suite(**changes: Any) -> Suite:
    return TrainingSuite.model_validate(SUITE | changes)


def _obtain(started: float = 1.0, tuning_loss: float = 0.3) -> Callable[[AnyTrial, str], TrialResult]:
    def obtain(trial: AnyTrial, role: str) -> TrialResult:
        loss = tuning_loss if role == "tuning" else 0.4
        curve = Curve(
            step=[0, 1], samples=[0, 8], epoch=[0, 1], seconds=[0, 1], train_loss=[1, loss], test_rmse=[1, loss]
        )
        return TrialResult(trial=trial, outcome=Outcome.COMPLETED, curve=curve, started=started)

    return obtain


def test_what_would_not_change_is_not_written_again(tmp_path: Path) -> None:
    def fresh(suite: Suite, obtain: Callable[[AnyTrial, str], TrialResult], *where: str) -> bool:
        found = study(suite)
        found.walk(obtain)
        return found.fresh_report(tmp_path, *(where or WHERE)) is not None

    written = study(_suite())
    written.walk(_obtain())
    assert written.fresh_report(tmp_path, *WHERE) is None  # there is no page yet
    page = written.write_report(tmp_path, *WHERE)
    assert page.read_text().startswith("<!doctype html>")
    assert fresh(_suite(), _obtain())
    assert not fresh(_suite(target=0.35), _obtain())  # the same trials, read anew
    assert not fresh(_suite(seeds=range(7)), _obtain())
    assert not fresh(_suite(), _obtain(started=2.0))  # run again
    assert not fresh(_suite(), _obtain(tuning_loss=0.2))
    assert not fresh(_suite(), _obtain(), "sqlite:///y", "twice")
    page.write_text(page.read_text()[:-100])
    assert not fresh(_suite(), _obtain())  # half a page
    page.unlink()
    assert not fresh(_suite(), _obtain())


def test_other_code_writes_its_own_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "figures.py").write_text("colour = 'blue'")
    monkeypatch.setattr(freshness, "FOLDER", tmp_path)
    freshness._code.cache_clear()
    before = freshness.digest("the same")
    (tmp_path / "figures.py").write_text("colour = 'red'")
    freshness._code.cache_clear()
    after = freshness.digest("the same")
    freshness._code.cache_clear()
    assert before != after
