"""The Gram matrix and the step equal the dense float64 ones, on every architecture of cases.py."""

import pytest
import torch
from cases import CASES, Case
from compared import flat, relative_error
from torch import Tensor, nn

from ggn_core import GGN, gram
from ggn_core.capture import named_trainable
from ggn_core.linearizer import Linearizer
from ggn_core.reference import dense_gram, dense_jacobian, dense_step
from ggn_core.rules.base import as_real

TOLERANCE = 1e-10

# torch says so wherever its vmap falls back to a loop; slow is fine here.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _build(case: Case, batch: int, outputs: int) -> tuple[nn.Module, Tensor]:
    inputs = case.inputs(batch)
    return case.model(outputs).double(), inputs.double() if inputs.is_floating_point() else inputs


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gram_equals_the_dense_one(case: Case, batch: int, outputs: int) -> None:
    model, inputs = _build(case, batch, outputs)
    assert relative_error(gram(model, inputs), dense_gram(model, inputs)) < TOLERANCE


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_step_equals_the_dense_one(case: Case, outputs: int) -> None:
    model, inputs = _build(case, 5, outputs)
    targets = torch.randn_like(model(inputs).detach())
    before, change = flat(model), dense_step(model, inputs, targets, lr=0.7, damping=0.3)
    GGN(model, lr=0.7, damping=0.3).step(lambda: model(inputs) - targets)
    assert relative_error(flat(model) - before, change) < TOLERANCE


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_product_with_a_direction_equals_the_dense_one(case: Case, outputs: int) -> None:
    model, inputs = _build(case, 5, outputs)
    names = named_trainable(model)
    direction = {p: torch.randn_like(p) for p in names}
    expected = dense_jacobian(model, inputs) @ torch.cat([as_real(u).reshape(-1) for u in direction.values()])
    outputs = model(inputs)
    with torch.no_grad():
        product = Linearizer()(outputs, names).product(direction)
    assert relative_error(product, expected) < TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parameters_outside_the_step_stay(case: Case) -> None:
    model, inputs = _build(case, 3, 1)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    GGN(model).step(lambda: model(inputs))
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())


class TwoInputs(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.left(a) * self.right(b)).sum(1)


def test_tuples_and_dicts_of_inputs() -> None:
    model, a, b = TwoInputs().double(), torch.randn(5, 3).double(), torch.randn(5, 4).double()
    expected = dense_gram(model, (a, b))
    assert relative_error(gram(model, (a, b)), expected) < TOLERANCE
    assert relative_error(gram(model, {"b": b, "a": a}), expected) < TOLERANCE
    assert torch.equal(dense_gram(model, {"b": b, "a": a}), expected)
