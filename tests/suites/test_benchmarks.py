"""Every benchmark runs once; whether it is fast is asv's business."""

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from suites.benchmarks import gram, step


def _cases() -> Iterator[Any]:
    for module in (gram, step):
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != module.__name__:
                continue
            params = getattr(kind, "params", [[]])
            axes = params if isinstance(params[0] if params else None, list) else [params]
            for values in itertools.product(*axes) if axes != [[]] else [()]:
                for method in (m for m in dir(kind) if m.startswith(("time_", "track_"))):
                    yield pytest.param(kind, method, values, id=f"{name}.{method}-{'-'.join(values)}")


@pytest.mark.parametrize(("kind", "method", "values"), list(_cases()))
def test_it_runs(kind: type, method: str, values: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "PAIRS", 2)
    benchmark = kind()
    if hasattr(benchmark, "setup"):
        benchmark.setup(*values)
    value = getattr(benchmark, method)(*values)
    if method.startswith("track_"):
        assert value > 0
    if method == "track_error":
        assert value < 1e-5
