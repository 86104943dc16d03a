"""The parent's side of a process that holds one commit's code."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CaseError", "Process", "SkippedError", "crew"]

WORKER = Path(__file__).with_name("worker.py")
PACKAGE = "suites.benchmarks"
PATIENCE = 120.0  # seconds for one answer: a benchmark's set-up, a block, or a tracked number


class CaseError(Exception):
    """The benchmark raised, hung, or took its process down; the message says which."""


class SkippedError(Exception):
    """The benchmark says that it cannot run here."""


class Process:
    """Holds one commit's code, and answers requests one after the other. It starts again after its benchmark has
    taken it down.

    Args:
        tree: The commit's source.
        scratch: A folder for its log and its temporary files.
        threads: What torch and the libraries below it may use.
        patience: Seconds for one answer.
    """

    def __init__(self, tree: Path, scratch: Path, threads: int, patience: float = PATIENCE):
        self.tree = tree
        self.patience = patience
        self.temporary = scratch / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.log = scratch / "log.txt"
        inherited = os.environ.get("PYTHONPATH")
        self.variables = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tree), *([inherited] if inherited else [])]),
            "PYTHONHASHSEED": "0",
            "TMPDIR": str(self.temporary),
            "GGN_BENCHMARK_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
        }
        self.variables.pop("PYTHONDONTWRITEBYTECODE", None)  # imports are measured as users meet them
        self._running: subprocess.Popen[bytes] | None = None
        self._pending = b""

    def start(self) -> None:
        """Returns at once; the first answer waits for the start."""
        command = [sys.executable, "-P", str(WORKER), str(self.tree), PACKAGE]
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.temporary,
                env=self.variables,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        self._pending = b""

    def ask(self, do: str, **arguments: Any) -> Any:
        """The answer to one request.

        Raises:
            CaseError: The code raised, the process ended, or no answer came in time.
            SkippedError: The benchmark cannot run here.
        """
        if self._running is None:
            self.start()
        assert self._running is not None
        assert self._running.stdin is not None
        try:
            self._running.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._running.stdin.flush()
            answer = json.loads(self._line())
        except (BrokenPipeError, EOFError):
            raise CaseError(self._death()) from None
        except TimeoutError:
            self.stop()
            raise CaseError(f"no answer within {self.patience:g} s") from None
        if "error" in answer:
            raise CaseError(answer["error"])
        if "skip" in answer:
            raise SkippedError(answer["skip"])
        return answer["answer"]

    def stop(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        # The session: a benchmark may have started processes of its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        for stream in (running.stdin, running.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # a request that it no longer took
                stream.close()

    def _line(self) -> bytes:
        assert self._running is not None
        assert self._running.stdout is not None
        source = self._running.stdout.fileno()
        deadline = time.monotonic() + self.patience
        while b"\n" not in self._pending:
            ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(source, 2**16)
            if not part:
                raise EOFError
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _death(self) -> str:
        """Why the process has ended, with the last lines of its log."""
        assert self._running is not None
        code = self._running.wait()
        self.stop()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        return "\n".join([f"the process {how}", *tail])


@contextmanager
def crew(trees: dict[str, Path], scratch: Path, threads: int) -> Iterator[dict[str, Process]]:
    """One fresh process a name; none of them outlives the block."""
    made = {name: Process(tree, scratch / name, threads) for name, tree in trees.items()}
    try:
        for process in made.values():
            process.start()
        yield made
    finally:
        for process in made.values():
            process.stop()
