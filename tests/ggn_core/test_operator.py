"""The Gram operator equals the dense Gram matrix, also where samples depend on each other."""

import copy

import pytest
import torch
from cases import CASES, Case
from torch import nn

from ggn_core import GramOperator, ResidualsError, UnsupportedError
from ggn_core.reference import dense_gram

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


WITHOUT_SECOND_DERIVATIVES = {"embedding-bag"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_products_equal_the_dense_ones(case: Case) -> None:
    model, inputs = case.model(2).double(), case.inputs(3)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    expected = dense_gram(model, inputs)
    operator = GramOperator(model, inputs)
    assert operator.shape == tuple(expected.shape)
    vectors = torch.randn(operator.shape[0], 4).double()
    if case.name in WITHOUT_SECOND_DERIVATIVES:
        with pytest.raises(UnsupportedError, match="second derivatives"):
            operator @ vectors
        return
    assert torch.allclose(operator @ vectors, expected @ vectors, rtol=1e-9, atol=1e-12)
    assert torch.allclose(operator @ vectors[:, 0], expected @ vectors[:, 0], rtol=1e-9, atol=1e-12)


def test_batch_normalization_in_training_mode() -> None:
    """The oracle is a plain loop over outputs on a copy, since torch.func refuses to update running statistics."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3).double()
    twin = copy.deepcopy(model)
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(twin.parameters()), retain_graph=True)])
        for value in twin(x).reshape(-1)
    ]
    jacobian = torch.stack(rows)
    vectors = torch.randn(10, 2).double()
    assert torch.allclose(GramOperator(model, x) @ vectors, jacobian @ (jacobian.T @ vectors), rtol=1e-9, atol=1e-12)


def test_random_layers_keep_their_draw() -> None:
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 1)).double()
    operator = GramOperator(model, torch.randn(4, 3).double())
    identity = torch.eye(4).double()
    first, again = operator @ identity, operator @ identity
    assert torch.equal(first, again)
    assert torch.allclose(first, first.T, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (7, 2), (6, 1, 1), ()])
def test_vectors_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    operator = GramOperator(nn.Linear(3, 2), torch.randn(3, 3))
    with pytest.raises(ResidualsError, match="expected a vector"):
        operator @ torch.zeros(shape)
