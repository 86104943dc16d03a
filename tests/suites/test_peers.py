"""The peers benchmark, without the peers: clocks, rows of failures, table and figure. Peers that are installed are
held to the dense truth, too.
"""

import ast
import copy
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from ggn_core.reference import dense_gram, dense_step
from harness.phases import PHASES
from suites.peers import truth
from suites.peers.__main__ import main
from suites.peers.figure import draw
from suites.peers.measure import QUICK, Budget, Memory, interleave, settled_load
from suites.peers.networks import SHARED, WORKLOADS, mlp
from suites.peers.peers import PEERS, RIVALS
from suites.peers.record import Case, Record, Row, read, read_row, write, write_row
from suites.peers.run import TITLES, Runner, run
from suites.peers.statistics import least_ratio, ratio, rival_ratio, wrong
from suites.peers.table import markdown, number
from suites.peers.traps import FLOAT64, TRAPS
from suites.peers.worker import answer

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "ours": "ggn_core",
    "torch.func": "torch.func",
    "torchjd": "torchjd",
    "nngeometry": "nngeometry",
    "torch-lm": "torch_levenberg_marquardt",
}
# peer -> whether it offers the Gram matrix, and the step
OFFERS = {
    "ours": (True, True),
    "torch.func": (True, False),
    "torchjd": (True, True),
    "nngeometry": (True, False),
    "torch-lm": (False, True),
}


class Clock:
    """A clock that calls move by hand."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, seconds: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.log += name
            self.now += seconds()

        return call


# registry and adapters


def test_the_registry_names_every_peer_and_its_library() -> None:
    assert set(PEERS) == set(LIBRARIES) == set(OFFERS)
    assert list(TITLES["peers"]) == [*PEERS, "somax"]
    assert len({peer.title for peer in PEERS.values()}) == len(PEERS)
    assert set(TITLES["rivals"]) == set(RIVALS)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_agrees_with_the_dense_truth(name: str) -> None:
    pytest.importorskip(LIBRARIES[name])
    torch.manual_seed(0)
    model, inputs, targets = mlp(3, 8, 8, 2).double(), torch.randn(4, 3).double(), torch.randn(4, 2).double()
    gram = PEERS[name].gram(copy.deepcopy(model), inputs)
    trained = copy.deepcopy(model)
    step = PEERS[name].step(trained, inputs, targets, 0.5, 2.0)
    assert (gram is not None, step is not None) == OFFERS[name]
    if gram is not None:
        assert torch.allclose(gram(), dense_gram(model, inputs), rtol=1e-10)
    if step is not None:
        step()
        change = torch.cat([(p - q).reshape(-1) for p, q in zip(trained.parameters(), model.parameters(), strict=True)])
        assert torch.allclose(change, dense_step(model, inputs, targets, lr=0.5, damping=2.0), rtol=1e-8, atol=1e-14)


# networks and truth


def test_workloads_are_what_their_titles_say() -> None:
    sizes = {name: sum(p.numel() for p in workload.network().parameters()) for name, workload in WORKLOADS.items()}
    assert sizes["mlp-1"] == 785 * 1024 + 2 * 1025 * 1024 + 1025
    assert sizes["mlp-10"] == 785 * 512 + 513 * 512 + 513 * 10
    convolutions = [m for m in WORKLOADS["resnet-1"].network().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 32  # layers with weights, the head among them
    assert sizes["resnet-10"] - sizes["resnet-1"] == 65 * 9
    for workload in WORKLOADS.values():
        assert workload.tiny is not None
        model, inputs, targets = workload.tiny.load()
        assert model(inputs).shape == targets.shape


@pytest.mark.parametrize("trap", TRAPS)
def test_the_truth_is_the_dense_jacobians(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "SHARE", 16 * 50)  # several shares, some of them larger than allowed
    model, inputs, targets = TRAPS[trap].load()
    exact = truth.exact(model, inputs, targets, 2.0, TRAPS[trap].independent)
    if not TRAPS[trap].independent:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            truth.exact(model, inputs, targets, 2.0, independent=True)
        model[1].track_running_stats = False  # jacrev allows no running statistics; they do not act on the outputs
        model[1].running_mean = model[1].running_var = None
    double = copy.deepcopy(model).double()
    x = inputs.double() if inputs.is_floating_point() else inputs
    assert torch.allclose(exact.gram, dense_gram(double, x), rtol=1e-10)
    step = torch.cat([exact.step[name].reshape(-1) for name, _ in double.named_parameters()])
    assert torch.allclose(step, dense_step(double, x, targets.double(), lr=1.0, damping=2.0), rtol=1e-8, atol=1e-12)


def test_the_truth_survives_its_file(tmp_path: Path) -> None:
    tiny = WORKLOADS["mlp-10"].tiny
    assert tiny is not None
    truth.save(tiny, tmp_path / "tiny.npz")
    loaded, exact = truth.load(tmp_path / "tiny.npz"), truth.exact(*tiny.load(), truth.DAMPING, True)
    assert torch.equal(loaded.gram, exact.gram)
    assert list(loaded.step) == list(exact.step)
    assert all(torch.equal(loaded.step[name], exact.step[name]) for name in exact.step)
    with np.load(tmp_path / "tiny.npz") as arrays:
        assert {"inputs", "targets", "damping", "parameter 0.weight"} <= set(arrays.files)


def test_the_jax_twins_bear_the_same_names() -> None:
    module = ast.parse((ROOT / "suites/peers/jax_networks.py").read_text())
    tables = {node.target.id: node.value for node in module.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    networks = tables["NETWORKS"]
    assert isinstance(networks, ast.Dict)
    assert [ast.literal_eval(key) for key in networks.keys if key is not None] == [*SHARED, *TRAPS]


# clocks and ratios


def test_ratios_are_paired_so_that_a_drifting_machine_does_not_matter() -> None:
    clock = Clock()
    pace = lambda: 1 + clock.now / 100  # noqa: E731  the machine gets slower and slower
    calls = {"peer": clock.call("p", lambda: 0.003 * pace()), "sgd": clock.call("s", lambda: 0.001 * pace())}
    seconds = interleave(calls, Budget(seconds=100, least=5, most=50, limit=1), clock)
    assert seconds["peer"][-1] > 1.001 * seconds["peer"][0]
    interval = ratio(Row("ours", "mlp-1", "gram", seconds=seconds))
    assert interval is not None
    assert interval.size == 50
    assert interval.median == pytest.approx(3, rel=1e-3)
    assert interval.low <= interval.median <= interval.high


def test_short_calls_warm_their_own_caches_and_the_order_is_random() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", lambda: 0.1), "b": clock.call("b", lambda: 0.1), "c": clock.call("c", lambda: 1.5)}
    interleave(calls, Budget(seconds=1e9, least=1, most=30, limit=1), clock)
    log = clock.log[2 * len(calls) :]
    rounds = {log[5 * i : 5 * i + 5] for i in range(30)}
    assert len(log) == 30 * 5
    assert rounds == {"aabbc", "aacbb", "bbaac", "bbcaa", "caabb", "cbbaa"}


def test_beside_a_long_call_short_ones_are_timed_more_often_and_their_median_counts() -> None:
    clock = Clock()
    times = iter([0.1, 0.1, 9.0, *[0.1, 0.3, 0.2] * 5])  # warm-up, first, untimed, then three a round
    calls = {"peer": clock.call("p", lambda: 3.9), "sgd": clock.call("s", lambda: next(times))}
    seconds = interleave(calls, Budget(seconds=0, least=1, most=1, limit=1), clock)
    assert clock.log.count("s") == 2 + 1 + 3
    assert seconds["peer"] == [pytest.approx(3.9)]
    assert seconds["sgd"] == [pytest.approx(0.2)]
    clock.log = ""
    calls["sgd"] = clock.call("s", lambda: 0.001)
    interleave(calls, Budget(seconds=0, least=1, most=1, limit=1), clock)
    assert clock.log.count("s") == 2 + 1 + 20


@pytest.mark.parametrize(("patience", "waited", "load"), [(0, 0, 1.3), (5, 5, 0.8), (120, 10, 0.4)])
def test_a_busy_machine_is_given_time_to_come_to_rest(
    patience: float, waited: float, load: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("suites.peers.measure.os.getloadavg", lambda: ([1.3, 0.8, 0.4][len(slept)], 0, 0))
    monkeypatch.setattr("suites.peers.measure.time.sleep", slept.append)
    assert settled_load(patience) == load
    assert sum(slept) == waited


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (8.5, 9), (1e9, 20)])
def test_the_budget_ends_the_rounds(seconds: float, rounds: int) -> None:
    clock = Clock()
    budget = Budget(seconds=seconds, least=5, most=20, limit=1)
    result = interleave({"peer": clock.call("p", lambda: 1.0)}, budget, clock)
    assert result == {"peer": [1.0] * rounds}


def test_minima_are_left_where_most_rounds_were_disturbed() -> None:
    seconds = {"peer": [9.0, 3.0, 7.0], "sgd": [5.0, 8.0, 2.0]}
    assert least_ratio(Row("ours", "mlp-1", "gram", seconds=seconds)) == 1.5
    assert least_ratio(Row("ours", "mlp-1", "gram")) is None


def test_a_rivals_ratio_comes_from_its_own_pairs() -> None:
    slow = Row("ours", "mlp-1", "step", seconds={"peer": [1.0], "sgd": [2.0, 4.0], "adam": [3.0, 6.0]})
    interval = rival_ratio(Record({}, {}, {}, [Row("ours", "mlp-1", "gram"), slow], []), "mlp-1", "adam")
    assert interval is not None
    assert interval.median == 1.5
    assert rival_ratio(Record({}, {}, {}, [slow], []), "mlp-10", "adam") is None
    assert rival_ratio(Record({}, {}, {}, [slow], []), "mlp-1", "adam-fused") is None
    in_jax = Row("somax", "mlp-1", "step", seconds=slow.seconds)
    assert rival_ratio(Record({}, {}, {}, [in_jax], []), "mlp-1", "adam") is None


@pytest.mark.parametrize(
    ("workload", "error", "verdict"),
    [
        ("tied Linears", 0.04, True),
        ("tied Linears", 1e-3, False),
        ("tied Linears", float("nan"), True),
        ("tied Linears", None, False),
        (FLOAT64, 1e-7, True),
        (FLOAT64, 1e-14, False),
    ],
)
def test_wrong_is_more_than_rounding(workload: str, error: float | None, verdict: bool) -> None:
    assert wrong(Row("torchjd", workload, "gram", error=error)) is verdict


def test_peak_memory_is_counted_above_the_base() -> None:
    memory = Memory()
    block = np.ones(2**23)  # 64 MiB, written to
    del block
    assert 60 < memory.peak() < 100


# one case


def _case(peer: str, workload: str, quantity: str = "gram", kind: str = "exactness", data: str = "") -> Case:
    return Case(peer, workload, quantity, kind, QUICK, data)


@pytest.mark.parametrize("trap", TRAPS)
def test_ours_is_exact_or_says_why_not(trap: str, tmp_path: Path) -> None:
    truth.save(TRAPS[trap], tmp_path / "truth.npz")
    row = answer(_case("ours", trap, data=str(tmp_path / "truth.npz")))
    if trap == "BatchNorm in training mode":
        assert row.reason is not None
        assert row.reason.startswith("UnsupportedError: ")
        assert row.error is None
    else:
        assert row.reason is None
        assert row.error is not None
        assert row.error < (1e-12 if trap == FLOAT64 else 1e-5)


def test_an_absent_library_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.autogram", None)
    row = answer(_case("torchjd", "mlp-1", kind="time"))
    assert row.offered
    assert row.seconds == {}
    assert row.reason is not None
    assert "torchjd" in row.reason


def test_the_phases_of_our_step_are_timed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = WORKLOADS["resnet-10"].tiny
    assert tiny is not None
    monkeypatch.setitem(WORKLOADS, "resnet-10", tiny)
    row = answer(Case("ours", "resnet-10", "phases", "time", QUICK, ""))
    assert row.reason is None
    assert tuple(row.seconds) == PHASES
    assert all(len(seconds) == QUICK.most and min(seconds) > 0 for seconds in row.seconds.values())


def test_what_a_library_does_not_offer_is_no_failure() -> None:
    row = answer(_case("torch.func", "mlp-1", quantity="step", kind="time"))
    assert (row.offered, row.reason) == (False, "not offered")


def test_whatever_a_library_raises_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def gram(self, model: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
            raise KeyError

    monkeypatch.setitem(PEERS, "ours", Broken())  # type: ignore[arg-type]
    assert answer(_case("ours", "tied Linears")).reason == "KeyError: no message"


# processes


def test_a_runner_brings_an_answer_from_a_fresh_process(tmp_path: Path) -> None:
    row = Runner(None, tmp_path).answer("ours", "tied Linears", "step", "exactness", QUICK)
    assert row.reason is None
    assert row.error is not None
    assert row.error < 1e-4


@pytest.mark.parametrize(
    ("program", "limit", "reason"),
    [
        ("pass", 60, "its process left no answer"),
        ("raise SystemExit(3)", 60, "its process failed: no message"),
        ("1/0", 60, "its process failed: ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 9)", 60, "its process was ended by SIGKILL, probably out of memory"),
        ("import time; time.sleep(60)", 0.5, "no answer within 0.5 s"),
        (None, 60, "/absent/python does not start: No such file or directory"),
    ],
)
def test_a_process_without_an_answer_is_a_row(
    program: str | None, limit: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, real = Runner(None, tmp_path), Runner._process
    command = [sys.executable, "-c", program] if program else ["/absent/python"]
    monkeypatch.setattr(runner, "_process", lambda _, limit: real(runner, command, limit))
    row = runner.answer("torchjd", "mlp-1", "gram", "time", Budget(1, 1, 1, limit))
    assert (row.peer, row.workload, row.quantity, row.reason) == ("torchjd", "mlp-1", "gram", reason)
    assert row.offered


def test_without_its_environment_somax_is_a_row(tmp_path: Path) -> None:
    runner = Runner(None, tmp_path)
    row = runner.answer("somax", "tied Linears", "step", "exactness", QUICK)
    assert row.reason is not None
    assert row.reason.startswith("no JAX environment")
    assert runner.version("somax") is None


class Scripted(Runner):
    """Answers by heart, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, str]] = []

    def answer(self, peer: str, workload: str, quantity: str, kind: str, budget: Budget) -> Row:
        self.asked.append((peer, workload, quantity, kind))
        if peer == "torch-lm" and quantity == "gram":
            return Row(peer, workload, quantity, reason="not offered", offered=False)
        if peer == "torch-lm" and kind == "memory":
            return Row(peer, workload, quantity, reason="RuntimeError: full")
        if kind == "memory":
            return Row(peer, workload, quantity, peak_mib=7.0)
        seconds = {"peer": [2.0], "sgd": [1.0]} if kind == "time" else {}
        return Row(peer, workload, quantity, error=1e-7, seconds=seconds)

    def version(self, peer: str) -> str | None:
        return "1.0"


def test_a_run_keeps_a_row_of_everything_it_asks() -> None:
    runner = Scripted()
    saved: list[int] = []
    record = run(
        runner, ["ours", "torch-lm"], ["mlp-1"], QUICK,
        report=lambda row: None, save=lambda record: saved.append(len(record.rows) + len(record.exactness)),
    )  # fmt: skip
    rows = {(row.peer, row.quantity): row for row in record.rows}
    assert set(rows) == {(rival, "step") for rival in RIVALS} | {
        (peer, quantity) for peer in ("ours", "torch-lm") for quantity in ("gram", "step")
    } | {("ours", "phases")}
    assert rows["ours", "gram"].peak_mib == 7.0
    assert not rows["torch-lm", "gram"].offered
    assert ("torch-lm", "mlp-1", "gram", "memory") not in runner.asked
    assert rows["torch-lm", "step"].seconds  # measured, though its memory was not
    assert rows["torch-lm", "step"].reason == "RuntimeError: full"
    assert {(row.peer, row.quantity) for row in record.exactness} == {("ours", "gram"), ("torch-lm", "step")}
    assert len(record.exactness) == 2 * len(TRAPS)
    assert saved == list(range(1, len(record.rows) + len(record.exactness) + 1))


def test_workloads_of_our_own_are_not_put_to_the_peers() -> None:
    runner = Scripted()
    record = run(runner, ["torch-lm", "ours"], ["mlp-1", "mlp-small"], QUICK, lambda row: None, lambda record: None)
    peers = {(row.workload, row.peer) for row in record.rows if row.peer not in RIVALS}
    assert peers == {("mlp-1", "ours"), ("mlp-1", "torch-lm"), ("mlp-small", "ours")}


# table and figure


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
        Row("ours", "mlp-1", "phases", seconds={"forward": [0.004, 0.006, 0.005], "Gram": [0.002, 0.002, 0.9]}),
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
    assert "The parts of ggn_core (ours)'s step, ms: forward 5.00, Gram 2.00." in lines
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


# the command line, and what make installs


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


def test_make_installs_what_pyproject_names_and_no_other_torch() -> None:
    lines = (ROOT / "suites/peers/requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["optional-dependencies"]["peers"]:
        name, version = requirement.split(">=")
        assert pinned[name].startswith(version)
    assert "torch" not in pinned
    assert {PEERS[name].distribution for name in ("torchjd", "nngeometry", "torch-lm")} <= set(pinned)
    jax = (ROOT / "suites/peers/requirements-jax.txt").read_text().splitlines()
    assert all("==" in line for line in jax if not line.startswith("#"))
    assert {"jax", "python-somax"} <= {line.split("==")[0] for line in jax}
    assert "somax" not in {line.split("==")[0] for line in jax}  # another project's name
