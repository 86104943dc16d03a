"""Float32 products are computed as such inside a step, and only there, whatever the user allows for the model.

The flags are read while operations run; a device type is pretended, since the flags are there without the device. What
the flags do to a product is tested where there is a GPU.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from closures import ClosureApart
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ggn_core import GGN, Armijo, GramOperator, explain, gram
from ggn_core.precision import FLAGS, REDUCED, FullPrecision, precision_of, set_precision

ALL_FLAGS = tuple(dict.fromkeys(itertools.chain(*FLAGS.values())))
OPERATIONS = {"cpu": FLAGS["cpu"][2:], "cuda": FLAGS["cuda"][2:]}
ROOT = ("generic", "all")

# What a user may have done, by the old interface and by the new.
SETTINGS: dict[str, Callable[[], object]] = {
    "defaults": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
    "old matmul": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "old cudnn": lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
    "new matmul": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "new conv": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32"),
    "new cuda": lambda: setattr(torch.backends.cudnn, "fp32_precision", "tf32"),
    "new everywhere": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "both": lambda: (
        torch.set_float32_matmul_precision("high"),
        setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"),
        setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    ),
}


def _flags() -> list[str]:
    return [precision_of(*flag) for flag in ALL_FLAGS]


def _responses() -> list[list[str]]:
    """The flags now, and what becomes of them where the root changes: which have a value of their own."""
    root, found = precision_of(*ROOT), [_flags()]
    for value in ("ieee", "tf32", "none"):
        set_precision(*ROOT, value)
        found.append(_flags())
    set_precision(*ROOT, root)
    return found


@pytest.fixture(autouse=True)
def _flags_are_the_defaults() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    set_precision(*ROOT, "none")
    torch.set_float32_matmul_precision("highest")
    for flag in ALL_FLAGS[1:]:
        set_precision(*flag, "tf32" if flag in (("cuda", "conv"), ("cuda", "rnn")) else "none")


AROUND = {"_record_function_enter_new", "_record_function_exit"}  # the step itself, for torch's profiler


class Watching(ClosureApart, TorchDispatchMode):
    """Collects, of every operation, its name, whether the flags allow it less than full precision, and who asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool, bool]] = []  # name, reduced, by the closure

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reduced = any(precision_of(*flag) in REDUCED for flag in OPERATIONS["cpu"])
        self.seen.append((func.overloadpacket.__name__, reduced, self.by_closure))
        return func(*args, **(kwargs or {}))


def _network() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 1))
    return model, torch.randn(4, 2, 5, 5), torch.randn(4, 1)


@pytest.mark.parametrize("device", FLAGS)
@pytest.mark.parametrize("set_", SETTINGS.values(), ids=SETTINGS)
def test_inside_all_is_full_and_afterwards_as_it_was(set_: Callable[[], object], device: str) -> None:
    set_()
    before = _responses()
    with FullPrecision(device), FullPrecision(device):
        assert not any(precision_of(*flag) in REDUCED for flag in OPERATIONS[device])
    assert _responses() == before
    with pytest.raises(ZeroDivisionError), FullPrecision(device):
        _ = 1 // 0
    assert _responses() == before


@pytest.mark.parametrize("search", [None, Armijo()])
def test_a_step_is_full_and_its_closure_as_the_user_says(search: Armijo | None) -> None:
    """On this device, where "medium" is bfloat16; a search calls the closure again."""
    torch.set_float32_matmul_precision("medium")
    before = _responses()
    model, x, y = _network()
    optimizer = GGN(model, lr=0.5, damping=0.3, search=search)
    with Watching() as watching:
        optimizer.step(watching.of(lambda: model(x) - y))
    assert _responses() == before
    forward = [reduced for name, reduced, by_closure in watching.seen if by_closure and name == "convolution"]
    assert forward == [True] * (1 if search is None else 2)
    own = {name for name, _, by_closure in watching.seen if not by_closure}
    assert {"convolution_backward", "mm", "mv", "linalg_cholesky_ex"} <= own
    assert {name for name, reduced, by_closure in watching.seen if reduced and not by_closure} <= AROUND


def test_gram_and_operator_are_full() -> None:
    torch.set_float32_matmul_precision("medium")
    model, x, _ = _network()
    with Watching() as watching:
        gram(model, x)
        explain(model, x)
        GramOperator(model, x) @ torch.randn(4)
    backward = [reduced for name, reduced, _ in watching.seen if name in ("convolution_backward", "mm")]
    assert len(backward) > 4
    assert not any(backward)


def test_an_error_in_the_closure_leaves_the_flags_alone() -> None:
    torch.set_float32_matmul_precision("medium")
    before = _responses()
    model, x, y = _network()
    optimizer = GGN(model)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: (model(x) - y) * (1 // 0))
    assert _responses() == before


def test_nothing_is_written_where_nothing_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggn_core.precision.set_precision", lambda *_: pytest.fail("a flag was written"))
    model, x, y = _network()
    GGN(model).step(lambda: model(x) - y)
