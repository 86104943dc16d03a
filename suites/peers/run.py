"""Runs the cases, each in a process of its own, and keeps a row of every one, whatever became of it."""

import datetime
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.environment import environment

from .measure import Budget, settled_load
from .networks import SHARED, WORKLOADS
from .peers import OURS, PEERS, RIVALS, installed_version
from .record import SOMAX, Case, Record, Row, read_row, write_case
from .traps import TRAPS
from .truth import DAMPING
from .worker import THREADS

__all__ = ["TITLES", "Runner", "run"]

ROOT = Path(__file__).resolve().parents[2]

TITLES = {
    "peers": {name: peer.title for name, peer in PEERS.items()} | {SOMAX: "somax (JAX)"},
    "rivals": {"sgd": "SGD", "adam": "Adam", "adam-fused": "Adam, fused"},
    "workloads": {name: workload.title for name, workload in WORKLOADS.items()},
}


class Runner:
    """Answers cases in fresh processes.

    Args:
        jax: The Python of the environment with somax; None if there is none.
        folder: Where cases, answers and the workloads' truths lie meanwhile.
    """

    def __init__(self, jax: Path | None, folder: Path):
        self._jax, self._folder = jax, folder

    def answer(self, peer: str, workload: str, quantity: str, kind: str, budget: Budget) -> Row:
        """The row of a case; where its process fails, a row with the reason."""
        try:
            python, module = self._worker(peer)
            data = self._truth(workload, budget)
            case = Case(peer, workload, quantity, kind, budget, str(data))
            write_case(case, self._folder / "case.json")
            answer = self._folder / "answer.json"
            answer.unlink(missing_ok=True)
            self._process([python, "-m", module, str(self._folder / "case.json"), str(answer)], budget.limit)
            if not answer.exists():
                raise _FailedError("its process left no answer")
            return read_row(answer)
        except _FailedError as error:
            return Row(peer, workload, quantity, reason=str(error))

    def version(self, peer: str) -> str | None:
        """The peer's version, with what it stands on."""
        if peer != SOMAX:
            return installed_version(PEERS[peer].distribution)
        if self._jax is None:
            return None
        program = "from importlib.metadata import version as v; print(v('python-somax'), 'on jax', v('jax'))"
        done = subprocess.run([self._jax, "-c", program], capture_output=True, text=True, check=False)
        return done.stdout.strip() or None

    def _truth(self, workload: str, budget: Budget) -> Path:
        """Made once a workload, in a process of its own, whose memory ends with it."""
        path = self._folder / f"{workload}.npz"
        if not path.exists():
            self._process([sys.executable, "-m", f"{__package__}.truth", workload, str(path)], budget.limit)
        return path

    def _worker(self, peer: str) -> tuple[str, str]:
        if peer != SOMAX:
            return sys.executable, f"{__package__}.worker"
        if self._jax is None:
            raise _FailedError("no JAX environment: give its Python with --jax, or use make peers")
        return str(self._jax), f"{__package__}.jax_worker"

    def _process(self, command: list[str], limit: float) -> None:
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            raise _FailedError(f"no answer within {limit:g} s") from None
        except OSError as error:
            raise _FailedError(f"{command[0]} does not start: {error.strerror}") from error
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            hint = ", probably out of memory" if name == "SIGKILL" else ""
            raise _FailedError(f"its process was ended by {name}{hint}")
        if done.returncode > 0:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise _FailedError(f"its process failed: {last}")


class _FailedError(Exception):
    """A process gave no answer."""


def run(
    runner: Runner,
    peers: Sequence[str],
    workloads: Sequence[str],
    budget: Budget,
    report: Callable[[Row], None],
    save: Callable[[Record], None],
    patience: float = 0,
) -> Record:
    """Measures the peers on the workloads, then on the traps; ``report`` and ``save`` hear of every new row.

    A busy machine is given ``patience`` seconds to come to rest before.
    """
    facts = environment() | {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": settled_load(patience),
        "threads": THREADS,
        "damping": DAMPING,
        "seconds a case": budget.seconds,
        "least pairs": budget.least,
    }
    record = Record(facts, TITLES, {peer: runner.version(peer) for peer in peers}, [], [])
    for row in _speed(runner, peers, workloads, budget):
        record.rows.append(row)
        report(row)
        save(record)
    for row in _exactness(runner, peers, budget):
        record.exactness.append(row)
        report(row)
        save(record)
    return record


def _speed(runner: Runner, peers: Sequence[str], workloads: Sequence[str], budget: Budget) -> Iterator[Row]:
    for workload in workloads:
        for rival in RIVALS:
            yield runner.answer(rival, workload, "step", "memory", budget)
        for peer in (p for p in peers if workload in SHARED or p == OURS):
            for quantity in ("gram", "step"):
                row = runner.answer(peer, workload, quantity, "time", budget)
                if row.reason is None:
                    memory = runner.answer(peer, workload, quantity, "memory", budget)
                    row.peak_mib, row.reason = memory.peak_mib, memory.reason
                yield row
            if peer == OURS:
                yield runner.answer(peer, workload, "phases", "time", budget)


def _exactness(runner: Runner, peers: Sequence[str], budget: Budget) -> Iterator[Row]:
    """Of the Gram matrix, or of the step where a library offers no Gram matrix."""
    for trap in TRAPS:
        for peer in peers:
            row = runner.answer(peer, trap, "gram", "exactness", budget)
            yield row if row.offered else runner.answer(peer, trap, "step", "exactness", budget)
