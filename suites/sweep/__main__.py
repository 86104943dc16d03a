"""What the harness itself costs in a sweep of many tiny trials: ``python -m suites.sweep 2000``.

Prints milliseconds a trial: the whole, the trial proper, an empty process from the same fork server (what isolation
costs anybody), and what is left: starting, waiting, reading and recording.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console

from harness.engine import LocalEngine
from harness.progress import Reporter
from harness.runner import Runner
from harness.store import Store
from harness.studies import study
from harness.suite_file import load_suite
from harness.tracking import Tracker

SUITE = """\
suite: sweep_cost
problem: {{name: teacher_student, width: 4, samples: 32, test_samples: 8, inputs: 4}}
batch_size: 16
threads: 1
seeds: {seeds}
budget: {{epochs: 2}}
target: 0.1
methods: [ggn, sgd]
"""


def measure(trials: int) -> None:
    """Runs the sweep in a folder of its own and prints what it cost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        (folder / "suite.yaml").write_text(SUITE.format(seeds=trials // 2))
        suite = load_suite(str(folder / "suite.yaml"), 1)
        store, tracker = Store(folder), Tracker(suite)
        engine = LocalEngine(store, suite.limits)
        list(engine.run_all([suite.trial(suite.cells()[0], suite.methods[0], 10**6)]))  # type: ignore[attr-defined]
        recording, empty = _clocked(tracker, "record")
        found = study(suite)
        quiet = Console(file=(folder / "output.txt").open("w"))
        whole = _timed(lambda: Runner(suite, store, tracker, Reporter(suite.size(), quiet)).run(found.walk))
        whole -= sum(empty)
        os.chdir("/")
    walls = [result.wall_seconds for result in found.results()]
    a_trial = whole / len(walls)
    rest = a_trial - mean(walls) - median(empty)
    print(f"{len(walls)} trials; milliseconds a trial: {1e3 * a_trial:.1f}")
    print(f"  the trial proper: {1e3 * mean(walls):.1f}")
    print(f"  an empty process: {1e3 * median(empty):.1f}")
    print(f"  the harness beyond both: {1e3 * rest:.1f}, of that recording: {1e3 * mean(recording):.1f}")


def _empty_process() -> None:
    process = multiprocessing.get_context("forkserver").Process(target=os._exit, args=(0,))
    process.start()
    process.join()


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _clocked(owner: Any, name: str) -> tuple[list[float], list[float]]:
    """Replaces a method by one that notes how long each call takes, and after every fifth times an empty process."""
    method, seconds, empty = getattr(owner, name), [], []

    @wraps(method)
    def clocked(*arguments: Any) -> None:
        seconds.append(_timed(lambda: method(*arguments)))
        if len(seconds) % 5 == 1:
            empty.append(_timed(_empty_process))

    setattr(owner, name, clocked)
    return seconds, empty


if __name__ == "__main__":
    measure(int(sys.argv[1]))
