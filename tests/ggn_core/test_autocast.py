"""Models under ``torch.autocast``: half precision is theirs, the Jacobian rows and what is made of them are float32."""

import copy
from collections.abc import Callable

import pytest
import torch
from cases import CASES, Case
from compared import flat, relative_error
from torch import Tensor, nn

from ggn_core import GGN, Armijo, LevenbergMarquardt, explain, gram
from ggn_core.capture import named_trainable
from ggn_core.reference import dense_gram
from ggn_core.rules.base import as_real
from ggn_core.search import Search

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.parametrize(
        ("device", "dtype"),
        [
            pytest.param("cpu", torch.bfloat16, id="cpu-bfloat16"),
            pytest.param("cuda", torch.bfloat16, id="cuda-bfloat16", marks=pytest.mark.cuda),
            pytest.param("cuda", torch.float16, id="cuda-float16", marks=pytest.mark.cuda),
        ],
    ),
]


class Autocast(nn.Module):
    """A model that computes in half precision what autocast says."""

    def __init__(self, model: nn.Module, device: str, dtype: torch.dtype):
        super().__init__()
        self.model, self.context = model, lambda: torch.autocast(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            output: Tensor = self.model(x)
        return output


@pytest.fixture(autouse=True)
def _same_every_time(device: str) -> None:
    torch.manual_seed(0)


def _row_by_row(model: nn.Module, inputs: Tensor) -> Tensor:
    """The Gram matrix of what autograd computes through the same casts: one backward pass a residual."""
    parameters = list(named_trainable(model))
    rows = [
        torch.cat([
            as_real(part).double().flatten()
            for part in torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        ])
        for entry in model(inputs).flatten()
    ]  # fmt: skip
    return torch.stack(rows) @ torch.stack(rows).T


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_rule_through_casts(case: Case, device: str, dtype: torch.dtype) -> None:
    model, inputs = Autocast(case.model(2).to(device), device, dtype), case.inputs(5).to(device)
    found = gram(model, inputs)
    assert found.dtype == torch.float32
    assert relative_error(found.double(), _row_by_row(model, inputs)) < 3 * torch.finfo(dtype).eps


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(64, 1), (64,)),
    "sequence": (lambda: nn.Linear(8, 1), (9, 8)),
    "convolution": (lambda: nn.Conv2d(3, 1, 3), (3, 7, 7)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_products_are_full(layer: str, device: str, dtype: torch.dtype) -> None:
    """Of inputs that half precision holds, with cotangents of one: nothing is rounded but by the products."""
    make, shape = LAYERS[layer]
    network = nn.Sequential(make(), nn.Flatten(), Sum()).to(device)
    inputs = torch.randn(6, *shape).to(dtype).float().to(device)
    found, rules = gram(Autocast(network, device, dtype), inputs), explain(Autocast(network, device, dtype), inputs)
    assert relative_error(found.double(), dense_gram(network.double(), inputs.double())) < 1e-6
    assert all(share.rule != "generic" for share in rules.shares)


class Sum(nn.Module):
    """Of each sample's entries, whose derivatives are one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().sum(1)


def _network(device: str) -> tuple[nn.Module, Tensor, Tensor]:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 1))
    return network.to(device), torch.randn(5, 2, 5, 5, device=device), torch.randn(5, 1, device=device)


@pytest.mark.parametrize("search", [None, Armijo(), LevenbergMarquardt()], ids=["full", "armijo", "marquardt"])
def test_autocast_around_the_steps_is_autocast_in_the_closure(
    search: Search | None, device: str, dtype: torch.dtype
) -> None:
    """Around all of them, even: what autocast keeps of the weights is not kept from one to the next."""
    model, x, y = _network(device)
    twin = copy.deepcopy(model)
    around, inside = GGN(model, search=search), GGN(twin, search=search)
    wrapped = Autocast(twin, device, dtype)
    with torch.autocast(device, dtype):
        for _ in range(3):
            around.step(lambda: model(x).float() - y)
    for _ in range(3):
        loss = inside.step(lambda: wrapped(x).float() - y)
    assert bool(torch.isfinite(loss))
    assert torch.equal(flat(model), flat(twin))
    assert flat(model).dtype == torch.float32


def test_steps_come_near_those_in_double_precision(device: str, dtype: torch.dtype) -> None:
    model, x, y = _network(device)
    twin = copy.deepcopy(model).double()
    before, wrapped = flat(twin), Autocast(model, device, dtype)
    GGN(model, damping=1.0).step(lambda: wrapped(x).float() - y)
    GGN(twin, damping=1.0).step(lambda: twin(x.double()) - y.double())
    assert relative_error(flat(model) - before, flat(twin) - before) < 10 * torch.finfo(dtype).eps
