"""Models and steps under torch.compile: a step sees a model as it was written, and leaves it compiled."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from compared import flat, relative_error
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from ggn_core import GGN, Armijo, GramOperator, UnsupportedError, explain, gram
from ggn_core.reference import dense_gram, dense_step


@pytest.fixture(autouse=True)
def _compilers_memory_is_empty() -> Iterator[None]:
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counting:
    """A compiler that splits forward and backward, as inductor does, and counts the calls of what it compiled."""

    def __init__(self) -> None:
        self.calls = 0
        self._compile = aot_autograd(fw_compiler=self._forward)

    def __call__(self, graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self._compile(graph, example)
        return compiled

    def _forward(self, graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            self.calls += 1
            return graph.forward(*inputs)

        boxed: Callable[..., Any] = make_boxed_func(run)
        return boxed


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()


def _data() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3).double(), torch.randn(6, 1).double()


@pytest.mark.parametrize("of", ["model", "compiled"])
def test_a_compiled_model_takes_the_exact_step(of: str) -> None:
    """With the compiler that splits forward and backward, whose backward pass runs once only."""
    model, (x, y) = _mlp(), _data()
    compiled: Any = torch.compile(model, backend="aot_eager")
    compiled(x)
    before, change = flat(model), dense_step(model, x, y, lr=0.7, damping=0.3)
    optimizer = GGN(model if of == "model" else compiled, lr=0.7, damping=0.3)
    optimizer.step(lambda: compiled(x) - y)
    assert relative_error(flat(model) - before, change) < 1e-10
    assert optimizer.info is not None
    assert optimizer.info.generic == ()


def test_the_model_stays_compiled() -> None:
    """The first step finds out, and those after it do not ask again."""
    model, (x, y), counting = _mlp(), _data(), Counting()
    compiled: Any = torch.compile(model, backend=counting)
    compiled(x)
    optimizer, calls = GGN(model, damping=0.3), [counting.calls]
    for _ in range(3):
        optimizer.step(lambda: compiled(x) - y)
        calls.append(counting.calls)
    assert calls == [1, 2, 2, 2]
    assert torch.allclose(compiled(x), model(x))
    assert counting.calls == 3


def test_an_error_in_the_closure_leaves_it_compiled() -> None:
    model, (x, y), counting = _mlp(), _data(), Counting()
    compiled: Any = torch.compile(model, backend=counting)
    optimizer = GGN(model, damping=0.3)
    optimizer.step(lambda: compiled(x) - y)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: (compiled(x) - y) * (1 // 0))
    calls = counting.calls
    compiled(x)
    assert counting.calls == calls + 1


@pytest.mark.parametrize("solver", ["auto", "cg"])
def test_a_solver_that_multiplies_takes_compiled_models_too(solver: Any) -> None:
    model, (x, y) = _mlp(), _data()
    compiled: Any = torch.compile(model, backend="aot_eager")
    before, change = flat(model), dense_step(model, x, y, lr=0.7, damping=0.3)
    GGN(model, lr=0.7, damping=0.3, solver=solver).step(lambda: compiled(x) - y)
    assert relative_error(flat(model) - before, change) < 1e-4


def test_residuals_computed_by_a_compiled_model_are_refused() -> None:
    model, (x, y) = _mlp(), _data()
    compiled: Any = torch.compile(model, backend="aot_eager")
    residuals = compiled(x) - y
    with pytest.raises(UnsupportedError, match=r"set_stance\('force_eager'\)"):
        GGN(model, damping=0.3).step(lambda: residuals)


def test_a_search_evaluates_the_compiled_model() -> None:
    model, (x, y), counting = _mlp(), _data(), Counting()
    compiled: Any = torch.compile(model, backend=counting)
    optimizer = GGN(model, damping=0.3, search=Armijo())
    losses = [float(optimizer.step(lambda: compiled(x) - y)) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert optimizer.info is not None
    assert optimizer.info.attempts >= 1
    assert counting.calls >= 3


def test_gram_operator_and_explanation_of_a_compiled_model() -> None:
    model, (x, _) = _mlp(), _data()
    compiled: Any = torch.compile(model, backend="aot_eager")
    expected, v = dense_gram(model, x), torch.randn(6).double()
    assert relative_error(gram(compiled, x), expected) < 1e-10
    assert relative_error(GramOperator(compiled, x) @ v, expected @ v) < 1e-10
    assert {share.rule for share in explain(compiled, x).shares} == {share.rule for share in explain(model, x).shares}


def test_a_compiled_training_step() -> None:
    """What the user compiles around the optimizer: the step itself runs as it is."""
    model, (x, y) = _mlp(), _data()
    before, change = flat(model), dense_step(model, x, y, lr=0.7, damping=0.3)
    optimizer = GGN(model, lr=0.7, damping=0.3)

    def train(x: Tensor, y: Tensor) -> Tensor:
        loss = optimizer.step(lambda: model(x * 2 / 2) - y)
        return loss + 1

    compiled: Any = torch.compile(train, backend="aot_eager")
    loss = compiled(x, y)
    assert relative_error(flat(model) - before, change) < 1e-10
    assert float(loss) > 1
