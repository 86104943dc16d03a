"""The page of step costs: ratios, verdicts, and when none is given."""

import json
import random
from pathlib import Path

import pytest
from tables import interval_of, tables, tables_of_markdown

from harness.analysis.stepcost.growth import crossovers, growths
from harness.analysis.stepcost.record import as_record
from harness.analysis.stepcost.report import notes, report_data, write_report
from harness.analysis.stepcost.summary import summaries
from harness.analysis.stepcost.terminal import as_records
from harness.stepcost_suite import StepCostSuite
from harness.sweep import Costs, survey
from harness.trial import AnyTrial, Outcome, StepCosts, TrialResult

SUITE = StepCostSuite.model_validate(
    {
        "suite": "costs",
        "problem": ({"name": "teacher_student", "width": 4}, {"name": "teacher_student", "width": 8}),
        "batch_size": (8, 16),
        "threads": (1,),
        "methods": ({"name": "ggn"}, {"name": "sgd"}),
    }
)


def _found(factor: float = 1.5, bias: float = 1.0, noise: float = 0.01) -> list[Costs]:
    """GGN's step takes ``factor`` times SGD's; its second copy ``bias`` times its first."""
    draw = random.Random(0)

    def around(seconds: float) -> list[float]:
        return [seconds * (1 + noise * draw.uniform(-1, 1)) for _ in range(40)]

    def obtain(trial: AnyTrial, role: str) -> TrialResult:
        sgd = 1e-3 * trial.problem.width
        phases = {"forward": around(0.4 * sgd), "Gram": around(0.8 * sgd)}
        costs = StepCosts(
            step=[around(factor * sgd), around(sgd)],
            again=around(factor * bias * sgd),
            gradient=around(0.8 * sgd),
            phases=phases,
            memory_mib=[30.0, None],
            step_error=2e-6,
        )
        return TrialResult(trial=trial, outcome=Outcome.COMPLETED, costs=costs, parameters=7 * trial.problem.width)

    return survey(SUITE, obtain)


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, "worse"), (0.8, "better"), (1.03, "open"), (1.0, "open")])
def test_a_verdict_needs_an_interval_and_an_effect(factor: float, verdict: str) -> None:
    for summary in summaries(SUITE, _found(factor)):
        (ratio,) = summary.ratios
        assert ratio.verdict == verdict
        assert ratio.value.low <= factor * 1.005
        assert ratio.value.high >= factor * 0.995
        assert not summary.noisy


@pytest.mark.parametrize("wrong", [{"bias": 1.2}, {"noise": 0.9}])
def test_a_noisy_machine_gets_no_verdict(wrong: dict[str, float]) -> None:
    found = _found(1.5, **wrong)
    assert all(summary.noisy and summary.ratios[0].verdict == "open" for summary in summaries(SUITE, found))
    assert "4 cells the machine was too noisy" in notes(SUITE, found)[0]


def test_numbers_of_the_tables() -> None:
    narrow, *_ = report_data(SUITE, _found())["cells"]
    assert narrow["cell"] == "width 4, batch size 8"
    summary = narrow["summary"]
    assert summary.milliseconds == pytest.approx([6.0, 4.0], rel=0.01)
    assert summary.gradient_milliseconds == pytest.approx(3.2, rel=0.01)
    assert summary.phases == pytest.approx({"forward": 0.5, "Gram": 1.0}, rel=0.01)
    (answer,) = report_data(SUITE, _found())["answers"]
    assert (answer["better"], answer["worse"], answer["open"]) == (0, 4, 0)
    json.dumps(as_records(SUITE, _found()), allow_nan=False)


def test_a_refused_cell_is_told_and_has_no_numbers(tmp_path: Path) -> None:
    def obtain(trial: AnyTrial, role: str) -> TrialResult:
        return TrialResult(trial=trial, outcome=Outcome.REFUSED, reason="the step is wrong")

    found = survey(SUITE, obtain)
    page = write_report(SUITE, found, tmp_path, "x", "costs").read_text()
    assert page.count("refused: ") == 4
    assert "the step is wrong" in page
    assert not list(tmp_path.glob("*.svg"))


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = write_report(SUITE, _found(), tmp_path, "x", "costs").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "ggn run costs" in page
    drawn = (tmp_path / "step_ratio.svg").read_text()
    assert "<!-- batch size 16 -->" in drawn
    assert "<!-- over SGD -->" in drawn
    assert "<!-- 1.25 times -->" in drawn


def test_markdown_and_json_say_what_the_page_says(tmp_path: Path) -> None:
    found = _found()
    shown = tables(write_report(SUITE, found, tmp_path, "x", "costs").read_text())
    assert tables_of_markdown(write_report(SUITE, found, tmp_path, "x", "costs", "md").read_text()) == shown
    record = json.loads(json.dumps(as_record(SUITE, found), allow_nan=False))
    _, cells, crossovers, memory, phases = shown
    assert [c["crossings"]["SGD"]["told"] for c in record["crossovers"]] == [row[1] for row in crossovers[1:]]
    for row, costs, use, part in zip(record["rows"], cells[1:], memory[1:], phases[1:], strict=True):
        ratio = row["ratios"]["SGD"]
        assert interval_of(costs[2]) == pytest.approx([ratio["median"], ratio["low"], ratio["high"]], rel=5e-3)
        assert costs[2].endswith("▲")
        assert ratio["verdict"] == "worse"
        assert interval_of(use[1]) + interval_of(use[2]) == [row["memory_mib"]["GGN"], row["memory_mib"]["SGD"]]
        assert float(part[2]) == pytest.approx(row["phases"]["forward"], rel=5e-3)
        assert [trial["outcome"] for trial in row["trials"]] == ["completed"]


GROWING = StepCostSuite.model_validate(
    SUITE.model_dump()
    | {"problem": tuple({"name": "teacher_student", "width": width} for width in (64, 256, 4096)), "margin": 1.5}
)


def _growing(counted: bool = True) -> list[Costs]:
    """GGN's step ∝ width^1.5 batch^1, SGD's ∝ width^2 batch^0.5: their ratio is 12 batch^0.5 width^-0.5."""
    draw = random.Random(1)

    def obtain(trial: AnyTrial, role: str) -> TrialResult:
        width, batch = trial.problem.width, trial.batch_size
        noise = [1 + 0.02 * draw.uniform(-1, 1) for _ in range(40)]
        sgd = [1e-7 * width**2 * batch**0.5 * x for x in noise]
        ours = [12e-7 * width**1.5 * batch * x * (1 + 0.02 * draw.uniform(-1, 1)) for x in noise]
        costs = StepCosts(step=[ours, sgd], again=ours, gradient=sgd, memory_mib=[1.0, 1.0], step_error=1e-6)
        parameters = width**2 if counted else None
        return TrialResult(trial=trial, outcome=Outcome.COMPLETED, costs=costs, parameters=parameters)

    return survey(GROWING, obtain)


def test_markdown_and_json_tell_the_growth_as_the_page_does(tmp_path: Path) -> None:
    found = _growing()
    shown = tables(write_report(GROWING, found, tmp_path, "x", "growing").read_text())
    assert tables_of_markdown(write_report(GROWING, found, tmp_path, "x", "growing", "md").read_text()) == shown
    record = json.loads(json.dumps(as_record(GROWING, found), allow_nan=False))
    for entry, row in zip(record["growth"], shown[3][1:], strict=True):
        for column, name in [(1, "GGN"), (2, "SGD")]:
            exact = [entry["exponents"][name][end] for end in ("median", "low", "high")]
            assert interval_of(row[column]) == pytest.approx(exact, rel=5e-3)


def test_exponents_of_a_planted_growth() -> None:
    fits = {(fit.axis, fit.rest): fit.exponents for fit in growths(GROWING, _growing())}
    # Two batch sizes are too few to fit.
    assert set(fits) == {(axis, f"batch size {size}") for axis in ("width", "parameters") for size in (8, 16)}
    for (axis, _), exponents in fits.items():
        for fit, truth in zip(exponents, (1.5, 2.0), strict=True):
            truth = truth / 2 if axis == "parameters" else truth
            assert fit.median == pytest.approx(truth, abs=0.01)
            assert fit.high - fit.low < 0.02


def test_the_crossover_of_a_planted_growth(tmp_path: Path) -> None:
    found = {(x.axis, x.rest): x.crossings[0] for x in crossovers(GROWING, summaries(GROWING, _growing()))}
    for batch in (8, 16):  # 12 batch^½ width^-½ = 1.5
        crossing = found["width", f"batch size {batch}"]
        assert crossing is not None
        assert crossing.side == "from"
        assert crossing.at.median == pytest.approx(64 * batch, rel=0.03)
    at_64 = found["batch_size", "width 64"]
    assert at_64 is not None
    assert at_64.told("batch_size") == "below the measured range (< 8)"
    page = write_report(GROWING, _growing(), tmp_path, "x", "growing").read_text()
    assert "below the measured range (&lt; 8)" in page
    assert "from width 5" in page
    assert "no more than 1.5 times" in page
    assert "number of parameters" in page


def test_uncounted_parameters_are_told() -> None:
    found = _growing(counted=False)
    assert {fit.axis for fit in growths(GROWING, found)} == {"width"}
    assert "6 cells, timed by a version that did not count parameters" in notes(GROWING, found)[0]
