"""What the report says of the search: what it was worth, and how much the settings matter."""

import json
import math
from pathlib import Path

import pytest

from harness.analysis.sensitivity import Sensitivity, sensitivity, spread
from harness.analysis.training.overall import crossovers
from harness.analysis.training.report import notes, report_data, write_report
from harness.analysis.training.summary import comparisons
from harness.analysis.training.terminal import as_records
from harness.analysis.training.tuning import sensitivities
from harness.sweep import sweep
from harness.training_suite import TrainingSuite
from harness.trial import Curve, Outcome, TrainingTrial, TrialResult

INF = math.inf

SUITE = TrainingSuite.model_validate(
    {
        "suite": "searched",
        "problem": ({"name": "concrete", "width": 4}, {"name": "abalone", "width": 4}),
        "batch_size": (8, 32),
        "threads": (1,),
        "methods": ({"name": "ggn"}, {"name": "sgd"}),
        "seeds": tuple(range(6)),
        "target": 0.5,
        "tuning": {
            "seeds": (7, 8),
            "spaces": {
                "ggn": {"lr": (0.5, 2.0), "damping": (0.1, 1.0)},
                "sgd": {"lr": (0.003, 0.03, 0.3, 3.0)},
            },
            "defaults": True,
        },
    }
)

# SGD's final losses in the search; the fourth rate breaks off.
SGD = {0.003: 0.4, 0.03: 0.2, 0.3: 0.1}


def _obtain(trial: TrainingTrial, role: str) -> TrialResult:
    """A method meets the target after 2 epochs with searched settings, after 4 with its own; SGD's epoch takes 1 s,
    GGN's 10 s at batch size 8 and 0.1 s at 32.
    """
    settings = trial.method
    if settings.name == "sgd":
        final = SGD.get(settings.lr, INF if settings.lr > 1 else 0.4)
    else:
        final = 0.1 * settings.lr * (1.0 if settings.damping == 0.1 else 1.5)  # 0.05, 0.075, 0.2, 0.3; 0.15 untuned
    epochs = 4 if (settings.name, settings.lr) in (("ggn", 1.0), ("sgd", 0.01)) else 2
    losses = [1.0] + [0.9] * (epochs - 1) + [final]
    seconds = 1.0 if settings.name == "sgd" else 10.0 if trial.batch_size == 8 else 0.1
    points = list(range(len(losses)))
    curve = Curve(
        step=points, samples=points, epoch=points, seconds=[seconds * p for p in points], train_loss=losses,
        test_rmse=losses,
    )  # fmt: skip
    broken = math.isinf(final)
    return TrialResult(
        trial=trial,
        outcome=Outcome.DIVERGED if broken else Outcome.COMPLETED,
        curve=curve.model_copy(update={"train_loss": [1.0], "epoch": [0.0], "seconds": [0.0]}) if broken else curve,
    )


CONTENDERS = sweep(SUITE, _obtain)


def test_spread_and_share_of_known_losses() -> None:
    assert sensitivity([0.1, 0.2, 0.21, 0.4]) == Sensitivity(spread=4.0, near=2, tried=4)
    assert sensitivity([0.1, INF]) == Sensitivity(INF, 1, 2)
    assert sensitivity([INF, INF]) == Sensitivity(INF, 0, 2)
    assert sensitivity([0.0, 0.0, 1.0]) == Sensitivity(INF, 2, 3)
    assert spread([]) == INF


def test_the_sensitivity_of_each_method() -> None:
    ggn, sgd = sensitivities(SUITE, CONTENDERS)
    assert (ggn.method, ggn.spread, ggn.near) == ("GGN", pytest.approx(0.3 / 0.05), 0.5)
    assert (sgd.method, sgd.spread, sgd.near) == ("SGD", INF, 0.5)
    assert [cell for cell, _ in sgd.cells] == [
        f"{problem}, batch size {size}" for problem in ("concrete", "abalone") for size in (8, 32)
    ]
    unfinished = sweep(SUITE, lambda trial, role: None if trial.seed == 8 else _obtain(trial, role))
    assert sensitivities(SUITE, unfinished) == []


def test_what_the_search_was_worth_stands_apart_from_the_comparison_of_methods(tmp_path: Path) -> None:
    data = report_data(SUITE, CONTENDERS)
    assert [entry["method"] for entry in data["rows"][:4]] == [
        "GGN, tuned", "GGN, default", "SGD, tuned", "SGD, default",
    ]  # fmt: skip
    assert [entry["row"].epochs_to_target.median for entry in data["rows"][:4]] == [2, 4, 2, 4]
    first = data["gains"][0]
    assert (first["chosen"], first["default"]) == ("lr 0.5, damping 0.1", "lr 1, damping 0.3")
    assert first["gain"].epochs_to_target.median == 0.5
    assert first["gain"].epochs_to_target.verdict == "better"
    # Between methods: the searched settings alone, one comparison a cell.
    assert len(comparisons(SUITE, CONTENDERS)) == 4
    assert {item.epochs_to_target.median for item in comparisons(SUITE, CONTENDERS)} == {1.0}
    page = write_report(SUITE, CONTENDERS, tmp_path, "x", "searched").read_text()
    assert page.count("Training loss of the searched settings on concrete") == 2  # alternative text and caption
    assert page.count("Training loss of the searched settings on abalone") == 2
    drawn = (tmp_path / "sensitivity_0.svg").read_text()
    assert "<!-- damping 0.1 -->" in drawn
    assert "<!-- ≥ 100 -->" in drawn  # the rate that breaks off


def test_records_and_notes_of_untuned_settings() -> None:
    records = as_records(SUITE, CONTENDERS)
    assert [(r["method"], r["tuned"], r["settings"]["lr"]) for r in records[:4]] == [
        ("ggn", True, 0.5), ("ggn", False, 1.0), ("sgd", True, 0.3), ("sgd", False, 0.01),
    ]  # fmt: skip
    json.dumps(records, allow_nan=False)
    assert not any("Incomplete" in note for note in notes(SUITE, CONTENDERS))
    partial = sweep(SUITE, lambda trial, role: None if trial.method.lr == 0.01 else _obtain(trial, role))
    assert any("Incomplete: 72 of 96" in note for note in notes(SUITE, partial))


def test_where_seconds_to_the_target_cross() -> None:
    (on_concrete, on_abalone) = crossovers(SUITE, comparisons(SUITE, CONTENDERS))
    assert (on_concrete.axis, on_concrete.rest, on_concrete.pair) == ("batch_size", "concrete", ("GGN", "SGD"))
    # 10 times SGD's at 8, a tenth at 32: equal half-way on logarithmic axes.
    assert on_concrete.crossing.side == "from"
    assert on_concrete.crossing.at[:3] == pytest.approx((16.0, 16.0, 16.0))
    assert on_abalone.rest == "abalone"
