"""Where a step looks at values, which makes the CPU wait for a GPU: at the documented places, or nowhere if capturable.

On a CPU, instruments note what a GPU would be waited for: operations that hand a value to Python, or whose result has a
size that depends on values, and methods of tensors that copy to the CPU.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, Case
from closures import ClosureApart
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import ggn_core
from ggn_core import GGN

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

PACKAGE = str(Path(ggn_core.__file__).parent)
WAITING_OPERATIONS = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
}
NUMBERS = {"relabelled.py"}  # looks at those that a weight is multiplied by, if the CPU holds them
WAITING_METHODS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"}


class Looks(ClosureApart):
    """Collects the files of the package from which values are looked at, outside the closure."""

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()

    def note(self) -> None:
        frame = sys._getframe()
        while frame.f_back is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        if not self.by_closure:
            self.files.add(Path(frame.f_code.co_filename).name)


class Operations(TorchDispatchMode):
    def __init__(self, looks: Looks):
        super().__init__()
        self._looks = looks

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in WAITING_OPERATIONS:
            self._looks.note()
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    def __init__(self, looks: Looks):
        super().__init__()
        self._looks = looks

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in WAITING_METHODS:
            self._looks.note()
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched() -> Iterator[Looks]:
    looks = Looks()
    with Operations(looks), Methods(looks):
        yield looks


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, outputs))


@pytest.mark.parametrize(("samples", "outputs"), [(6, 1), (30, 10)])  # 300 rows: refined
def test_an_ordinary_step_looks_where_it_is_documented(samples: int, outputs: int) -> None:
    """docs/gpu.md, "Waiting for the GPU"."""
    model, x, y = _mlp(outputs), torch.randn(samples, 3), torch.randn(samples, outputs)
    optimizer = GGN(model, damping=3.0, momentum=0.5, weight_decay=0.1)
    for weights, files in ((None, set()), (torch.rand(samples), {"weights.py"})):
        with _watched() as looks:
            optimizer.step(looks.of(lambda: model(x) - y), weights)
        assert looks.files == files | {"residuals.py", "solve.py", "optimizer.py"}


def test_a_sample_test_and_a_norm_limit_look_too() -> None:
    model, x, y = _mlp(1), torch.randn(6, 3), torch.randn(6, 1)
    with _watched() as looks:
        GGN(model, max_step_norm=1.0).step(looks.of(lambda: model(x).flip(0).flip(0) - y))
    assert looks.files == {"residuals.py", "solve.py", "optimizer.py", "layout.py", "direction.py"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_capturable_step_looks_nowhere(case: Case) -> None:
    model, x = case.model(2), case.inputs(5)
    y, weights = torch.randn_like(model(x).detach()), torch.rand(5)
    optimizer = GGN(model, momentum=0.5, weight_decay=0.1, capturable=True)
    for _ in range(2):  # the second finds what the first has proved
        with _watched() as looks:
            optimizer.step(looks.of(lambda: model(x) - y), weights)
        assert looks.files - NUMBERS == set()


def test_a_capturable_step_does_not_look_at_its_settings() -> None:
    model, x, y = _mlp(1), torch.randn(6, 3), torch.randn(6, 1)
    optimizer = GGN(model, lr=torch.tensor(0.5), damping=torch.tensor(3.0), capturable=True)
    group = optimizer.param_groups[0]
    last = {"params": [group["params"].pop()], "param_names": [group["param_names"].pop()], "lr": torch.tensor(0.1)}
    optimizer.param_groups.append({**group, **last})
    with _watched() as looks:
        optimizer.step(looks.of(lambda: model(x) - y))
    assert looks.files == set()
