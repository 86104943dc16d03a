"""What runs inside the process that holds one commit's code: sets a benchmark up, and times it when asked to.

It runs as a script, with the commit's source first on the path, so that ``harness`` means the commit's own harness: it
imports nothing of the gate's. Requests come as lines of JSON on standard input, answers go the same way; it ends with
its input, so a parent that is gone takes it along.

A benchmark is a class as asv knows it: ``setup``, ``teardown``, ``params``, and methods ``time_…`` (timed) or
``track_…`` (return a number, the lower the better). ``setup`` raises NotImplementedError to skip. Two attributes are
the gate's own: ``gated = False`` leaves a class out, ``tolerance`` says by what share a tracked number may grow.
"""

import ctypes
import gc
import importlib
import inspect
import itertools
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOLERANCE = 0.05  # of tracked numbers whose class names none

Record = dict[str, Any]


class Worker:
    """Holds at most one benchmark at a time.

    Args:
        tree: The commit's source: ggn_core must come from there.
        package: The benchmarks' package.
    """

    def __init__(self, tree: Path, package: str):
        self.package = package
        self.tree = tree
        self.benchmark: Any = None
        self.call: Callable[[], Any] = lambda: None
        self.values: tuple[Any, ...] = ()

    def hello(self) -> None:
        """Makes sure that the measured code is the commit's."""
        import ggn_core

        where = Path(ggn_core.__file__ or "").resolve()
        if not where.is_relative_to(self.tree.resolve()):
            raise RuntimeError(f"ggn_core came from {where}, not from the commit's source in {self.tree}")

    def cases(self) -> list[Record]:
        """Every case of the package; a module that cannot be imported stands for its cases, with the error."""
        found: list[Record] = []
        package = importlib.import_module(self.package)
        for info in pkgutil.iter_modules(package.__path__):
            try:
                module = importlib.import_module(f"{self.package}.{info.name}")
            except Exception:
                found.append({"id": info.name, "module": info.name, "error": traceback.format_exc()})
                continue
            for name, kind in inspect.getmembers(module, inspect.isclass):
                if kind.__module__ == module.__name__ and getattr(kind, "gated", True):
                    found += _cases(info.name, name, kind)
        return found

    def setup(self, module: str, kind: str, method: str, position: int) -> None:
        benchmark_class = getattr(importlib.import_module(f"{self.package}.{module}"), kind)
        self.benchmark = benchmark_class()
        self.values = _combinations(benchmark_class)[position]
        bound = getattr(self.benchmark, method)
        values = self.values
        self.call = lambda: bound(*values)
        if hasattr(self.benchmark, "setup"):
            self.benchmark.setup(*values)
        gc.collect()
        gc.disable()  # no collection inside a sample

    def block(self, calls: int, warm: int) -> float:
        """Seconds a call, over ``calls`` calls in a row, after ``warm`` more that bring the caches back."""
        call = self.call
        for _ in range(warm):
            call()
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - start) / calls / 1e9

    def value(self) -> float:
        return float(self.call())

    def drop(self) -> None:
        benchmark, self.benchmark, self.call = self.benchmark, None, lambda: None
        if hasattr(benchmark, "teardown"):
            benchmark.teardown(*self.values)
        del benchmark
        gc.enable()
        gc.collect()

    def pin(self, cores: list[int]) -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)


def _combinations(kind: type) -> list[tuple[Any, ...]]:
    """The values of the parameters, as asv reads them: a list, or a list of lists."""
    params = list(getattr(kind, "params", []))
    if not params:
        return [()]
    axes = params if isinstance(params[0], list | tuple) else [params]
    return list(itertools.product(*axes))


def _cases(module: str, name: str, kind: type) -> list[Record]:
    found: list[Record] = []
    for method in dir(kind):
        role = method.partition("_")[0]
        if role not in ("time", "track"):
            continue
        for position, values in enumerate(_combinations(kind)):
            shown = f"({', '.join(map(str, values))})" if values else ""
            found.append(
                {
                    "id": f"{module}.{name}.{method}{shown}",
                    "module": module,
                    "kind": name,
                    "method": method,
                    "position": position,
                    "role": role,
                    "unit": "s" if role == "time" else str(getattr(kind, "unit", "")),
                    "tolerance": float(getattr(kind, "tolerance", TOLERANCE)),
                }
            )
    return found


def main(tree: str, package: str) -> None:
    """Serves until the input ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)  # even a parent that is killed takes this along
    # Whatever the benchmarks print goes to the log; the answers have their own way out.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(Path(tree), package)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(worker, request.pop("do"))(**request)}
        except NotImplementedError as error:
            answer = {"skip": str(error)}
        except Exception as error:
            answer = {"error": "".join(traceback.format_exception(error)).strip()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
