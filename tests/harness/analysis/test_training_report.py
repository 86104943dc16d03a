"""The report page: what it says is what was measured, and it stands alone."""

import dataclasses
import html
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from tables import interval_of, tables, tables_of_markdown

from harness.analysis.formats import interval, number, ratio
from harness.analysis.labels import Labels
from harness.analysis.statistics import Interval
from harness.analysis.training.record import as_record
from harness.analysis.training.report import notes, report_data, write_report
from harness.sweep import Contender, sweep
from harness.training_suite import TrainingSuite
from harness.trial import Curve, DataRecord, Outcome, TrainingTrial, TrialResult

SUITE = TrainingSuite.model_validate(
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
DATA = DataRecord(name="concrete", source="here", digest="d", train_samples=8, test_samples=2, inputs=3, target="t")


def _obtain(trial: TrainingTrial, role: str) -> TrialResult:
    """GGN meets the target after two epochs, SGD after three at width 4 and never at width 8; one SGD run diverges."""
    losses = [1.0, 0.9, 0.4, 0.3] if trial.method.name == "ggn" else [1.0, 0.9, 0.8, 0.45]
    if trial.method.name == "sgd" and trial.problem.width == 8:
        losses[-1] = 0.7
    diverged = trial.method.name == "sgd" and trial.problem.width == 4 and trial.seed == 2
    points = [float(i) for i in range(2 if diverged else 4)]
    data = DATA.model_copy(update={"name": trial.problem.label})
    curve = Curve(
        step=[int(p) for p in points],
        samples=[int(8 * p) for p in points],
        epoch=points,
        seconds=[(0.1 if trial.method.name == "ggn" else 0.04) * p for p in points],
        train_loss=losses[: len(points)],
        test_rmse=[10 * loss for loss in losses[: len(points)]],
    )
    outcome = Outcome.DIVERGED if diverged else Outcome.COMPLETED
    return TrialResult(trial=trial, outcome=outcome, curve=curve, data=data, reason="off it went" if diverged else "")


@pytest.fixture(scope="module")
def contenders() -> list[Contender]:
    return sweep(SUITE, _obtain)


@pytest.fixture(scope="module")
def page(contenders: list[Contender], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(
        SUITE, contenders, tmp_path_factory.mktemp("report"), "sqlite:///x", "my/example.yaml"
    ).read_text()


def test_numbers_of_the_table(contenders: list[Contender]) -> None:
    narrow_ggn, narrow_sgd, wide_ggn, wide_sgd = (entry["row"] for entry in report_data(SUITE, contenders)["rows"])
    assert (narrow_ggn.hits, narrow_ggn.epochs_to_target.median) == (3, 2)
    assert (narrow_sgd.hits, narrow_sgd.epochs_to_target.median) == (2, 3)  # the diverged run is a miss, not absent
    assert narrow_sgd.epochs_to_target.high == float("inf")
    assert narrow_sgd.outcomes == {Outcome.COMPLETED: 2, Outcome.DIVERGED: 1}
    assert (wide_sgd.hits, wide_sgd.epochs_to_target.median) == (0, float("inf"))
    assert wide_ggn.best_test_rmse.median == pytest.approx(3.0)


def test_the_answer_counts_cells_with_enough_pairs(contenders: list[Contender]) -> None:
    def counts(suite: TrainingSuite) -> tuple[int, int, int]:
        answers = report_data(suite, sweep(suite, _obtain))["answers"]
        (epochs,) = [answer for answer in answers if answer["measure"] == "epochs to the target"]
        return epochs["better"], epochs["worse"], epochs["cells"]

    # At width 4 the run of seed 2 diverges: a hit over a miss, the ratio 0.
    assert counts(SUITE.model_copy(update={"seeds": tuple(range(6))})) == (2, 0, 2)
    assert counts(SUITE.model_copy(update={"seeds": tuple(range(5))})) == (0, 0, 2)  # chance alone could do that


def test_the_answer_leaves_out_cells_where_one_of_the_two_was_not_run() -> None:
    """As Gram-Gauss-Newton on a network with BatchNorm."""

    def obtain(trial: TrainingTrial, role: str) -> TrialResult:
        if trial.method.name == "ggn" and trial.problem.width == 8:
            return TrialResult(trial=trial, outcome=Outcome.SKIPPED, reason="cannot be")
        return _obtain(trial, role)

    suite = SUITE.model_copy(update={"seeds": tuple(range(6))})
    answers = report_data(suite, sweep(suite, obtain))["answers"]
    assert [answer["cells"] for answer in answers] == [1, 1, 1]


def test_several_settings_of_one_method_are_told_apart(tmp_path: Path) -> None:
    methods = ({"name": "ggn", "lr": 0.5}, {"name": "ggn", "lr": 1.0}, {"name": "sgd"})
    suite = TrainingSuite.model_validate(SUITE.model_dump() | {"methods": methods})
    found = sweep(suite, _obtain)
    data = report_data(suite, found)
    assert [entry["method"] for entry in data["rows"]] == ["GGN lr 0.5", "GGN lr 1", "SGD"] * 2
    assert {answer["pair"] for answer in data["answers"]} == {"GGN lr 0.5 against SGD", "GGN lr 1 against SGD"}
    assert {answer["cells"] for answer in data["answers"]} == {2}
    write_report(suite, found, tmp_path, "x", "example")
    drawn = (tmp_path / "train_loss_by_epoch.svg").read_text()
    assert all(f"<!-- {label} -->" in drawn for label in ("GGN lr 0.5", "GGN lr 1", "SGD"))


def test_several_problems_keep_their_names_units_and_data(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.csv").write_text("a,y,z\n1,2,3\n3,4,5\n")
    own = {"name": "csv", "width": 4, "target": "y", "unit": "EUR"}
    problems = (
        {"name": "concrete", "width": 4},
        {"name": "abalone", "width": 4},
        own | {"path": str(tmp_path / "one" / "own.csv")},
        own | {"path": str(tmp_path / "one" / "own.csv"), "target": "z"},
        own | {"path": str(tmp_path / "two" / "own.csv")},
    )
    suite = TrainingSuite.model_validate(SUITE.model_dump() | {"problem": problems})
    labels = [Labels(suite).cell(cell) for cell in suite.cells()]
    assert labels == [
        "concrete",
        "abalone",
        f"{tmp_path}/one/own.csv, target y",
        f"{tmp_path}/one/own.csv, target z",
        f"{tmp_path}/two/own.csv, target y",
    ]
    data = report_data(suite, sweep(suite, _obtain))
    assert [entry["unit"] for entry in data["rows"][::2]] == ["MPa", "rings", "EUR", "EUR", "EUR"]
    fewer = TrainingSuite.model_validate(SUITE.model_dump() | {"problem": problems[:3]})
    assert [Labels(fewer).cell(cell) for cell in fewer.cells()] == ["concrete", "abalone", "own"]
    page = write_report(fewer, sweep(fewer, _obtain), tmp_path / "page", "x", "example").read_text()
    assert "Data: concrete" in page
    assert "Data: own" in page


def test_a_reader_is_warned(contenders: list[Contender]) -> None:
    assert notes(SUITE, contenders) == ["Too few to tell a difference from chance: 3 seeds; give at least 6."]
    easy = SUITE.model_copy(update={"target": 2.0})
    assert any("12 trials met the target before training" in note for note in notes(easy, contenders))
    moved = [{"commit": commit, "code": code} for commit, code in (("a", "1"), ("b", "1"), ("b", "2"))]
    for environments, warned in ((moved[:2], False), (moved, True)):
        evaluations = [contenders[0].evaluations[0].model_copy(update={"environment": e}) for e in environments]
        mixed = [dataclasses.replace(contenders[0], evaluations=evaluations)]
        assert any("different environments" in note for note in notes(SUITE, mixed)) is warned


def test_the_page_stands_alone(page: str) -> None:
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/svg+xml;base64,") == 5


def test_the_page_says_what_was_measured(page: str) -> None:
    assert "off it went" in page
    assert "MPa" in page
    assert "missed" in page
    assert "ggn run my/example.yaml" in page
    assert "2 [2, 2]" in page


def test_text_of_the_suite_is_not_markup(page: str) -> None:
    assert "Is &lt;b&gt;it&lt;/b&gt; fast?" in page


SEARCHED = TrainingSuite.model_validate(
    SUITE.model_dump()
    | {
        "question": "Is <b>it</b> a|b, *fast*, `x` or __init__?",
        "problem": tuple({"name": "concrete", "width": width} for width in (4, 8, 16)),
        "seeds": tuple(range(6)),
        "tuning": {"seeds": (9,), "defaults": True, "spaces": {"ggn": {"lr": (0.5, 1.0)}, "sgd": {"lr": (0.1, 0.2)}}},
    }
)


def test_markdown_says_what_the_page_says(tmp_path: Path) -> None:
    found = sweep(SEARCHED, _obtain)
    page = write_report(SEARCHED, found, tmp_path, "x", "example").read_text()
    path = write_report(SEARCHED, found, tmp_path, "x", "example", "md")
    assert path == tmp_path / "report.md"
    text = path.read_text()
    read, shown = tables_of_markdown(text), tables(page)
    assert [table[1:] for table in read] == [table[1:] for table in shown]  # headings that HTML leaves empty are named
    assert [len(table[0]) for table in read] == [len(table[0]) for table in shown] == [6, 4, 5, 3, 8, 5, 7, 3, 4, 3, 5]
    assert any("▼" in cell for table in tables(page) for row in table for cell in row)
    assert set(re.findall(r"!\[.*\]\((.*)\)", text)) == {file.name for file in tmp_path.glob("*.svg")}


def test_gradient_equivalents_are_drawn_where_every_result_tells_their_unit(tmp_path: Path) -> None:
    def obtain(trial: TrainingTrial, role: str) -> TrialResult:
        unit = None if trial.seed == 2 and not all_tell else 0.02
        return _obtain(trial, role).model_copy(update={"gradient_seconds": unit})

    for all_tell in (False, True):
        write_report(SUITE, sweep(SUITE, obtain), tmp_path, "x", "example")
        assert (tmp_path / "train_loss_by_gradients.svg").exists() == all_tell
    assert "gradient-equivalents" in (tmp_path / "train_loss_by_gradients.svg").read_text()


def test_text_of_suites_and_errors_is_not_markup_in_markdown(tmp_path: Path) -> None:
    reason = "1|2 <b>*x*</b> `y` __init__ [a](b) a_b\\c &lt;"

    def fail(trial: TrainingTrial, role: str) -> TrialResult:
        return TrialResult(trial=trial, outcome=Outcome.CRASHED, reason=reason)

    text = write_report(SEARCHED, sweep(SEARCHED, fail), tmp_path, "x", "example", "md").read_text()
    shown = MarkdownIt("commonmark").enable("table").render(text)
    assert f"seed 0: {html.escape(reason)}</li>" in shown
    assert f"<p>{html.escape(SEARCHED.question)}</p>" in shown


def test_json_has_the_numbers_of_the_page(tmp_path: Path) -> None:
    found = sweep(SEARCHED, _obtain)
    record = json.loads(json.dumps(as_record(SEARCHED, found), allow_nan=False))
    answer, overall, growth, crossovers, rows, comparisons, gains, _, sensitivities, _, candidates = tables(
        write_report(SEARCHED, found, tmp_path, "x", "example").read_text()
    )
    told = [[a["pair"], a["measure"], f"{a['better']} of {a['cells']}"] for a in record["answers"]]
    assert told == [row[:3] for row in answer[1:]]

    def agree(entries: list[dict[str, dict[str, float]]], shown: list[list[str]], columns: dict[str, int]) -> None:
        assert len(entries) == len(shown) > 0
        for entry, row in zip(entries, shown, strict=True):
            for key, column in columns.items():
                exact = [entry[key][end] for end in ("median", "low", "high")]
                read = [None] * 3 if row[column] == "–" else interval_of(row[column])
                assert read == [x if x is None else pytest.approx(x, rel=5e-3) for x in exact]

    agree(record["overall"], overall[1:], {"probability": 2, "ratio": 3})
    agree(record["growth"], growth[1:], {"epochs": 2, "seconds": 3})
    measured = {"epochs_to_target": 4, "seconds_to_target": 5, "final_test_rmse": 6, "best_test_rmse": 7}
    agree(record["rows"], rows[1:], measured)
    agree(record["comparisons"], comparisons[1:], {"epochs_to_target": 2, "seconds_to_target": 3, "best_test_rmse": 4})
    agree(record["gains"], gains[1:], {"epochs_to_target": 4, "seconds_to_target": 5, "best_test_rmse": 6})
    assert [c["told"] for c in record["crossovers"]] == [row[2] for row in crossovers[1:]]
    near = [f"{cell['near']} of {cell['tried']}" for entry in record["sensitivities"] for cell in entry["cells"]]
    assert near == [row[3] for row in sensitivities[1:]]
    marks = [{"better": "▼", "worse": "▲"}.get(c["epochs_to_target"]["verdict"], "") for c in record["comparisons"]]
    assert [row[2].endswith(mark) for row, mark in zip(comparisons[1:], marks, strict=True)] == [True] * 3
    assert [c["settings"]["lr"] for c in record["candidates"]] == [0.5, 1.0, 0.1, 0.2] * 3
    assert len(candidates) == 1 + len(record["candidates"])
    for row in record["rows"]:  # a median of what stands below it, with a miss beyond all
        values = sorted(float("inf") if (x := t["epochs_to_target"]) is None else x for t in row["trials"])
        middle = (values[2] + values[3]) / 2
        assert row["epochs_to_target"]["median"] == (middle if middle < float("inf") else None)
    assert {t["outcome"] for row in record["rows"] for t in row["trials"]} == {"completed", "diverged"}


def test_an_incomplete_sweep_says_so(tmp_path: Path) -> None:
    partial = sweep(SUITE, lambda trial, role: None if trial.seed == 2 else _obtain(trial, role))
    page = write_report(SUITE, partial, tmp_path, "x", "example").read_text()
    assert "Incomplete: 8 of 12" in page


def test_a_sweep_without_results_has_a_page(tmp_path: Path) -> None:
    page = write_report(SUITE, sweep(SUITE, lambda trial, role: None), tmp_path, "x", "example").read_text()
    assert "Incomplete: 0 of 12" in page


def test_writing_numbers() -> None:
    inf = float("inf")
    values = (0.012345, 5.0, 1234.5, 1.5e9, inf, float("nan"))
    assert [number(x) for x in values] == ["0.0123", "5", "1234", "1.5e+09", "missed", "–"]
    assert interval(Interval(2.0, 1.0, inf, 3)) == "2 [1, missed]"
    assert ratio(Interval(2.0, 1.0, inf, 3)) == "2 [1, ∞]"
    assert interval(Interval(0.0, 0.0, 0.0, 0)) == "–"
