"""The peers benchmark's cases, each in a process of its own: an answer is a row, whatever goes wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from harness.phases import PHASES
from suites.peers import truth
from suites.peers.measure import QUICK, Budget
from suites.peers.networks import WORKLOADS
from suites.peers.peers import PEERS, RIVALS
from suites.peers.record import Case, Row
from suites.peers.run import Runner, run
from suites.peers.traps import FLOAT64, TRAPS
from suites.peers.worker import answer

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
