"""Numbers of theory suites, on records whose exponents, orders and rates are known."""

import json
import math
from pathlib import Path

import pytest
from tables import interval_of, tables, tables_of_markdown

from harness.analysis.theory import summary
from harness.analysis.theory.record import as_record
from harness.analysis.theory.report import report_data, write_report
from harness.methods import GgnSettings, SgdSettings
from harness.sweep import Costs, survey
from harness.theory_suite import TheorySuite
from harness.trial import AnyTrial, Descent, Outcome, TheoryRecord, TrialResult

SUITE = TheorySuite.model_validate(
    {
        "suite": "theory",
        "problem": tuple(
            {"name": "two_layer", "width": w, "activation": a} for a in ("softplus", "relu") for w in (64, 256, 1024)
        ),
        "batch_size": (5,), "dtype": ("float64",), "threads": (1,), "seeds": 3, "methods": ({"name": "sgd"},),
    }
)  # fmt: skip


def _found() -> list[Costs]:
    """r⁺ = r²/M until it is rounding, a gap of M^(−1/2), half of the residual an epoch where 0.25 was predicted."""

    def obtain(trial: AnyTrial, role: str) -> TrialResult:
        width = trial.problem.width
        quadratic = [2.0]
        while quadratic[-1] > 1e-12:
            quadratic.append(quadratic[-1] ** 2 / width)
        quadratic[-1] = 5e-13  # the floor that rounding leaves
        smooth = trial.problem.activation == "softplus"
        record = TheoryRecord(
            link_gap=(1 + trial.seed) * width**-0.5,
            descents=[
                Descent(
                    method=GgnSettings(lr=1.0, damping=0.0), start=1.0, residuals=quadratic,
                    factors=[4.0 / width] * (len(quadratic) - 1) if smooth else [],
                ),
                Descent(method=SgdSettings(lr=1.0), start=1.0, residuals=[0.9**k for k in range(9)]),
                Descent(method=SgdSettings(lr=2.0), start=1.0, residuals=[0.5**k for k in range(9)]),
            ],
            epoch_residuals=[0.5**k for k in range(60)],
            predicted_residuals=[0.25**k for k in range(60)],
            spectral_radius=0.25,
        )  # fmt: skip
        return TrialResult(trial=trial, outcome=Outcome.COMPLETED, theory=record)

    return survey(SUITE, obtain)


def test_exponents_orders_and_rates() -> None:
    found = _found()
    assert summary.gap_exponent(found, "softplus").median == pytest.approx(-0.5)
    assert summary.width_exponent(found, "softplus").median == pytest.approx(-1)
    assert summary.order(found, "softplus").median == pytest.approx(2)
    assert summary.order(found, "softplus").size == 3
    ratios = summary.bound_ratios(found, "softplus")
    assert max(ratios) == pytest.approx(0.25)
    assert min(ratios) == pytest.approx(0.25)  # what has met the floor is left out
    assert summary.bound_ratios(found, "relu") == []
    _, record = next(summary.records(found))
    assert summary.tail_rate(record.epoch_residuals, record) == pytest.approx(0.5)
    assert summary.tail_rate(record.predicted_residuals, record) == pytest.approx(0.25)
    best = summary.best_descents(found, "softplus", "sgd")
    assert {descent.method for descent in best} == {SgdSettings(lr=2.0)}
    assert summary.widths(found, "relu") == [64, 256, 1024]


def test_the_page_shows_cells_fits_and_figures(tmp_path: Path) -> None:
    data = report_data(SUITE, _found())
    assert [fit["activation"] for fit in data["fits"]] == ["softplus", "ReLU"]
    assert math.isnan(data["cells"][3]["summary"].bound)
    page = write_report(SUITE, _found(), tmp_path, "x", "theory").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "ggn run theory" in page


def test_markdown_and_json_say_what_the_page_says(tmp_path: Path) -> None:
    shown = tables(write_report(SUITE, _found(), tmp_path, "x", "theory").read_text())
    assert tables_of_markdown(write_report(SUITE, _found(), tmp_path, "x", "theory", "md").read_text()) == shown
    record = json.loads(json.dumps(as_record(SUITE, _found()), allow_nan=False))
    fits, cells = shown
    assert [fit["activation"] for fit in record["fits"]] == [row[0] for row in fits[1:]]
    for row, cell in zip(record["rows"], cells[1:], strict=True):
        gap = row["link_gap"]
        assert interval_of(cell[1]) == pytest.approx([gap["median"], gap["low"], gap["high"]], rel=5e-3)
        assert interval_of(cell[3]) == [row["bound"] if row["bound"] is None else pytest.approx(row["bound"])]
        assert len(row["trials"]) == 3
