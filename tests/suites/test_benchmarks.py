"""Every benchmark runs once; whether it is fast is asv's and the gate's business."""

import importlib
import inspect
import itertools
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compared import flat, relative_error

import suites.benchmarks
from ggn_core import GGN
from suites.benchmarks import memory, step
from suites.benchmarks.by_hand import step_by_hand
from suites.benchmarks.networks import mlp

ROOT = Path(__file__).parents[2]


def _cases() -> Iterator[Any]:
    for info in pkgutil.iter_modules(suites.benchmarks.__path__):
        module = importlib.import_module(f"suites.benchmarks.{info.name}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != module.__name__:
                continue
            params = getattr(kind, "params", [[]])
            axes = params if isinstance(params[0] if params else None, list) else [params]
            for values in itertools.product(*axes) if axes != [[]] else [()]:
                for method in (m for m in dir(kind) if m.startswith(("time_", "track_"))):
                    label = "-".join(map(str, values))
                    yield pytest.param(kind, method, values, id=f"{info.name}.{name}.{method}-{label}")


@pytest.mark.parametrize(("kind", "method", "values"), list(_cases()))
def test_it_runs(kind: type, method: str, values: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "PAIRS", 2)
    monkeypatch.setattr(memory, "PROCESSES", 1)
    assert len(values) == len(getattr(kind, "param_names", values))
    benchmark = kind()
    if hasattr(benchmark, "setup"):
        benchmark.setup(*values)
    try:
        value = getattr(benchmark, method)(*values)
        if method.startswith("time_"):
            getattr(benchmark, method)(*values)  # a timed call is repeated
    finally:
        if hasattr(benchmark, "teardown"):
            benchmark.teardown(*values)
    if method.startswith("track_"):
        assert value > 0
        assert kind.unit  # type: ignore[attr-defined]
    if method == "track_error":
        assert value < 1e-5
    if method == "track_epochs_to_target":
        assert value <= 12


def test_the_step_by_hand_is_the_step() -> None:
    (model, x, y), (twin, *_) = mlp(16, 8, "cpu"), mlp(16, 8, "cpu")
    before = flat(model)
    step_by_hand(model, x, y, lr=0.5, damping=3.0)()
    GGN(twin, lr=0.5, damping=3.0).step(lambda: twin(x) - y)
    assert relative_error(flat(model) - before, flat(twin) - before) < 1e-4


def test_the_environment_chooses_grid_devices_and_threads() -> None:
    program = """
import torch
from suites.benchmarks import gram, memory
print(max(gram.Gram.params[0]), gram.Gram.params[2], memory.Memory.params[0])
gram.Gram().setup(64, 32, "cpu")
print(torch.get_num_threads())
try:
    gram.Gram().setup(64, 32, "cuda:99") if not torch.cuda.is_available() else None
except NotImplementedError as skipped:
    print("skipped:", skipped)
"""
    chosen = {"GGN_BENCHMARK_GRID": "large", "GGN_BENCHMARK_DEVICES": "cpu,cuda:99", "GGN_BENCHMARK_THREADS": "2"}
    variables = os.environ | chosen | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables, check=True)
    first, threads, *skipped = done.stdout.splitlines()
    assert first.startswith("4096 ['cpu', 'cuda:99'] [64, 512, 1024, 4096]")
    assert threads == "2"
    assert skipped in ([], ["skipped: no cuda:99 here"])


def test_asv_asks_nothing_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "asv.conf.json").write_text('{"version": 1, "project": "x", "repo": ".", "results_dir": "r"}')
    variables = os.environ | {"HOME": str(home), "GGN_MACHINE": "runner", "PYTHONPATH": str(ROOT)}
    program = (
        "import sys, runpy; sys.argv = ['asv', '--version']\n"
        "try: runpy.run_module('suites.run_asv', run_name='__main__')\n"
        "finally:\n"
        "    from asv.machine import Machine\n"
        "    print(Machine.load().machine)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, env=variables, stdin=subprocess.DEVNULL
    )
    assert done.stdout.splitlines()[-1] == "runner", done.stdout + done.stderr
    assert "questions" not in done.stdout
    assert not list(home.iterdir())
    assert (checkout / ".asv" / "machine.json").is_file()
