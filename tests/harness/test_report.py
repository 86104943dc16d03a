"""The report page: what it says is what was measured, and it stands alone."""

import re
from pathlib import Path

import pytest

from harness.analysis.report import interval, number, ratio, report_data, write_report
from harness.analysis.statistics import Interval
from harness.suite import Suite
from harness.sweep import Contender, sweep
from harness.trial import Curve, DataRecord, Outcome, TrainingTrial, TrialResult

SUITE = Suite.model_validate(
    {
        "suite": "example",
        "question": "Is <b>it</b> fast?",
        "problem": ({"name": "concrete", "width": 4}, {"name": "concrete", "width": 8}),
        "batch_size": (8,),
        "threads": (1,),
        "methods": ({"name": "ggn"}, {"name": "sgd"}),
        "seeds": (0, 1, 2),
        "target": 0.5,
    }
)
DATA = DataRecord(
    name="concrete", source="here", digest="d", train_samples=8, test_samples=2, inputs=3, target="t", unit="MPa"
)


def _obtain(trial: TrainingTrial, role: str) -> TrialResult:
    """GGN meets the target after two epochs, SGD after three at width 4 and never at width 8; one SGD run diverges."""
    losses = [1.0, 0.9, 0.4, 0.3] if trial.method.name == "ggn" else [1.0, 0.9, 0.8, 0.45]
    if trial.method.name == "sgd" and trial.problem.width == 8:
        losses[-1] = 0.7
    diverged = trial.method.name == "sgd" and trial.problem.width == 4 and trial.seed == 2
    points = [float(i) for i in range(2 if diverged else 4)]
    curve = Curve(
        step=[int(p) for p in points],
        samples=[int(8 * p) for p in points],
        epoch=points,
        seconds=[0.1 * p for p in points],
        train_loss=losses[: len(points)],
        test_rmse=[10 * loss for loss in losses[: len(points)]],
    )
    outcome = Outcome.DIVERGED if diverged else Outcome.COMPLETED
    return TrialResult(trial=trial, outcome=outcome, curve=curve, data=DATA, reason="off it went" if diverged else "")


@pytest.fixture(scope="module")
def contenders() -> list[Contender]:
    return sweep(SUITE, _obtain)


@pytest.fixture(scope="module")
def page(contenders: list[Contender], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(SUITE, contenders, tmp_path_factory.mktemp("report"), "sqlite:///x").read_text()


def test_numbers_of_the_table(contenders: list[Contender]) -> None:
    narrow_ggn, narrow_sgd, wide_ggn, wide_sgd = (entry["row"] for entry in report_data(SUITE, contenders)["rows"])
    assert (narrow_ggn.hits, narrow_ggn.epochs_to_target.median) == (3, 2)
    assert (narrow_sgd.hits, narrow_sgd.epochs_to_target.median) == (2, 3)  # the diverged run is a miss, not absent
    assert narrow_sgd.epochs_to_target.high == float("inf")
    assert narrow_sgd.outcomes == {Outcome.COMPLETED: 2, Outcome.DIVERGED: 1}
    assert (wide_sgd.hits, wide_sgd.epochs_to_target.median) == (0, float("inf"))
    assert wide_ggn.best_test_rmse.median == pytest.approx(3.0)


def test_the_answer_counts_cells(contenders: list[Contender]) -> None:
    answers = {answer["measure"]: answer for answer in report_data(SUITE, contenders)["answers"]}
    assert (answers["epochs to the target"]["better"], answers["epochs to the target"]["worse"]) == (2, 0)
    assert answers["best test error"]["cells"] == 2


def test_the_page_stands_alone(page: str) -> None:
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/svg+xml;base64,") == 4


def test_the_page_says_what_was_measured(page: str) -> None:
    assert "off it went" in page
    assert "MPa" in page
    assert "missed" in page
    assert "ggn run example" in page
    assert "2 [2, 2]" in page


def test_text_of_the_suite_is_not_markup(page: str) -> None:
    assert "Is &lt;b&gt;it&lt;/b&gt; fast?" in page


def test_an_incomplete_sweep_says_so(tmp_path: Path) -> None:
    partial = sweep(SUITE, lambda trial, role: None if trial.seed == 2 else _obtain(trial, role))
    page = write_report(SUITE, partial, tmp_path, "x").read_text()
    assert "Incomplete: 8 of 12" in page


def test_a_sweep_without_results_has_a_page(tmp_path: Path) -> None:
    page = write_report(SUITE, sweep(SUITE, lambda trial, role: None), tmp_path, "x").read_text()
    assert "Incomplete: 0 of 12" in page


def test_writing_numbers() -> None:
    inf = float("inf")
    assert [number(x) for x in (0.012345, 5.0, 1234.5, inf, float("nan"))] == ["0.0123", "5", "1234", "missed", "–"]
    assert interval(Interval(2.0, 1.0, inf, 3)) == "2 [1, missed]"
    assert ratio(Interval(2.0, 1.0, inf, 3)) == "2 [1, ∞]"
    assert interval(Interval(0.0, 0.0, 0.0, 0)) == "–"
