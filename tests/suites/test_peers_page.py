"""The peers benchmark's record, page and figure, and its command line."""

from pathlib import Path

import matplotlib
import pytest
from click.testing import CliRunner

from harness.phases import PHASES
from suites.peers.__main__ import main
from suites.peers.figure import draw
from suites.peers.record import Record, Row, read, read_row, write, write_row
from suites.peers.run import TITLES
from suites.peers.table import markdown, number


@pytest.fixture
def record() -> Record:
    def seconds(factor: float) -> dict[str, list[float]]:
        sgd = [0.010, 0.011, 0.012]
        return {"peer": [factor * s for s in sgd], "sgd": sgd, "adam": [1.25 * s for s in sgd]}

    facts: dict[str, str | int | float | bool | None] = {
        "date": "2026-01-01", "commit": "0123456789abcdef", "dirty": False, "cpu": "a CPU", "cores": 2, "threads": 2,
        "memory_gib": 8.0, "system": "Linux", "python": "3.11", "torch": "2.13.0", "damping": 8.0, "load": 0.1,
    }  # fmt: skip
    versions = {"ours": "0.1.0", "torchjd": "0.18.0", "somax": None}
    rows = [
        Row("sgd", "mlp-1", "step", peak_mib=21.0),
        Row("ours", "mlp-1", "gram", seconds=seconds(0.75), error=1e-7, peak_mib=10.0),
        Row("ours", "mlp-1", "step", seconds=seconds(1.12), error=1e-6, peak_mib=12.0),
        Row("ours", "mlp-1", "phases", seconds={phase: [0.004, 0.006, 0.005 + k] for k, phase in enumerate(PHASES)}),
        Row("torchjd", "mlp-1", "gram", seconds=seconds(1234), error=2e-7, peak_mib=1033.0),
        Row("torchjd", "mlp-1", "step", seconds=seconds(2345), error=0.5, reason="RuntimeError: a | b"),
        Row("somax", "mlp-1", "gram", reason="not offered", offered=False),
        Row("somax", "mlp-1", "step", reason="no answer within 900 s"),
    ]
    exactness = [
        Row("ours", "tied Linears", "gram", error=7e-8),
        Row("torchjd", "tied Linears", "gram", error=0.063),
        Row("somax", "tied Linears", "step", reason="ValueError: no"),
    ]
    return Record(facts, TITLES, versions, rows, exactness)


def test_a_record_survives_its_file(record: Record, tmp_path: Path) -> None:
    write(record, tmp_path / "peers.json")
    assert [path.name for path in tmp_path.iterdir()] == ["peers.json"]
    again = read(tmp_path / "peers.json")
    assert again.exactness == record.exactness
    assert again.rows[1].seconds["peer"] == [0.0075, 0.00825, 0.009]
    assert (again.facts, again.titles, again.versions) == (record.facts, record.titles, record.versions)
    write_row(record.rows[0], tmp_path / "row.json")
    assert read_row(tmp_path / "row.json") == record.rows[0]


def test_the_page_holds_every_row(record: Record) -> None:
    page = markdown(record)
    lines = page.splitlines()
    assert "| ggn_core (ours) | 0.75 / 1.12 |" in lines
    assert "| TorchJD | 1,234 / 2,345 |" in lines
    assert "| somax (JAX) | – / failed |" in lines
    assert "| Adam | 1.25 |" in lines
    ours = "| ggn_core (ours) | step | 12.3 | 1.12 [1.12, 1.12] | 1.12 | 0.90 [0.90, 0.90] |  | 1e-06 | 12 | 3 |"
    assert ours in lines
    assert "| SGD | step | 11.0 | 1 |  |  |  |  | 21 |  |" in lines
    assert "| Adam | step | 13.7 | 1.25 [1.25, 1.25] |  |  |  |  |  | 3 |" in lines
    assert "| MLP 784-1024³-1, batch 128 | 11.0 | 5.00 | 6.00 | 6.00 | 6.00 | 6.00 | 1.06 |" in lines
    assert "**0.5**" in page  # silently wrong
    assert "RuntimeError: a / b" in page  # its cell does not end early
    assert "| somax (JAX) | step | no answer within 900 s |  |  |  |  |  |  |  |" in lines
    assert "| somax (JAX) | Gram | not offered |  |  |  |  |  |  |  |" in lines
    assert "| tied Linears | 7e-08 | **0.063** | error |" in lines
    assert "- tied Linears, somax (JAX): ValueError: no" in lines
    assert "2026-01-01, commit 0123456789ab: a CPU" in page
    assert "somax (JAX) (not installed)" in page
    assert "784-512" not in page  # a workload that was not measured has no section
    tables = [line for line in lines if line.startswith("| ")]
    assert all(line.endswith(" |") for line in tables)


def test_the_page_tells_that_the_machine_was_busy(record: Record) -> None:
    assert "Other programs" not in markdown(record)
    record.facts["load"] = 3.04
    assert "**Other programs were using the machine, load 3.0 on 2 cores" in markdown(record)


@pytest.mark.parametrize(("value", "text"), [(1.123, "1.12"), (99.43, "99.4"), (112.3, "112"), (1123.4, "1,123")])
def test_numbers_have_three_digits_or_so(value: float, text: str) -> None:
    assert number(value) == text


def test_the_figure_tells_numbers_failures_and_wrong_results(record: Record, tmp_path: Path) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        draw(record, tmp_path / "peers")
    svg = (tmp_path / "peers.svg").read_text()
    for text in (
        "MLP 784-1024³-1, batch 128",
        "1.12",
        "1,234",
        "no answer within 900 s",
        "wrong: 0.063",
        "raises an error",
    ):
        assert f"{text}<" in svg, text
    assert "784-512" not in svg
    assert (tmp_path / "peers.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("error")
def test_a_run_in_which_everything_failed_has_a_page_and_a_figure(record: Record, tmp_path: Path) -> None:
    record.rows = [Row("ours", "mlp-1", "gram", reason="x"), Row("sgd", "mlp-1", "step", reason="y")]
    record.exactness = []
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(record, tmp_path / "peers")
    svg = (tmp_path / "peers.svg").read_text()
    assert "Gram matrix: x<" in svg
    assert "Exactness" not in svg  # nothing to show
    assert "| ggn_core (ours) | failed / – |" in markdown(record).splitlines()


# the command line


def test_redraw_reads_a_record(record: Record, tmp_path: Path) -> None:
    write(record, tmp_path / "peers.json")
    done = CliRunner().invoke(main, ["--redraw", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"peers.json", "peers.md", "peers.svg", "peers.png"}
    assert (tmp_path / "peers.md").read_text() == markdown(read(tmp_path / "peers.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "keras"], "'torchjd'"),
        (["--workload", "lstm"], "'resnet-10'"),
        (["--jax", "absent/python"], "absent/python"),
        (["--redraw", "--output", "absent"], "no recorded run in"),
    ],
)
def test_bad_input_exits_with_2(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert message in done.output
    assert list(tmp_path.iterdir()) == []
