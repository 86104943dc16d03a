"""What only a GPU can show: TF32, waiting, CUDA graphs of convolutional networks, and every rule's kernels there."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import CASES, Case
from compared import flat, relative_error
from torch import Tensor, nn

from ggn_core import GGN, explain, gram
from ggn_core.choice import Choose
from ggn_core.reference import dense_step

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")]


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


class Residual(nn.Module):
    """A block of a ResNet with GroupNorm (He et al. 2016, option A) that halves the image and doubles the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, 2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))
        output: Tensor = (h + shortcut).relu()
        return output


class Pooled(nn.Module):
    """The mean over positions, (n, c, h, w) -> (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.GroupNorm(4, 8), nn.ReLU(), Residual(8), Residual(16), Pooled(),
        nn.Linear(32, 2),
    )  # fmt: skip


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_step_equals_the_dense_one_of_the_cpu(case: Case, capturable: bool) -> None:
    inputs = case.inputs(5)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    model = case.model(2).double()
    targets = torch.randn_like(model(inputs).detach())
    before, change = flat(model), dense_step(model, inputs, targets, lr=0.7, damping=0.3)
    model.cuda()
    x, y = inputs.cuda(), targets.cuda()
    GGN(model, lr=0.7, damping=0.3, capturable=capturable).step(lambda: model(x) - y)
    assert relative_error(flat(model).cpu() - before, change) < 1e-9


@pytest.mark.parametrize("case", [case for case in CASES if "norm" in case.name], ids=lambda case: case.name)
def test_kernels_of_gpus_have_their_rules(case: Case) -> None:
    found = explain(case.model(2).cuda(), case.inputs(5).cuda())
    assert "generic" not in {share.rule for share in found.shares}


@pytest.fixture
def _tf32_everywhere() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision("highest")


def _frozen(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).requires_grad_(False)


# One layer to train, its inputs those of the network, and only linear ones after it: the Jacobian does not depend on
# what the forward pass computes, in TF32 here.
LINEAR_NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(256, 512), _frozen(nn.Linear(512, 512), nn.Linear(512, 3))), (256,)),
    "sequence": (lambda: nn.Sequential(nn.Linear(64, 32), nn.Flatten(), _frozen(nn.Linear(512, 3))), (16, 64)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(16, 32, 3), _frozen(nn.Conv2d(32, 16, 3, stride=2), nn.Flatten(), nn.Linear(576, 3))
        ),
        (16, 16, 16),
    ),
}


@pytest.mark.usefixtures("_tf32_everywhere")
@pytest.mark.parametrize("choose", ["auto", "counted"])
@pytest.mark.parametrize("network", LINEAR_NETWORKS)
def test_float32_is_not_tf32(network: str, choose: Choose) -> None:
    make, shape = LINEAR_NETWORKS[network]
    model, x = make().cuda(), torch.randn(32, *shape, device="cuda")
    expected = gram(copy.deepcopy(model).double(), x.double())
    assert relative_error(gram(model, x).double(), expected) < 1e-5
    flat_x = x.flatten(1)
    if torch.cuda.get_device_capability() >= (8, 0):  # outside it is
        assert relative_error((flat_x @ flat_x.T).double(), flat_x.double() @ flat_x.double().T) > 1e-5
    twin, targets = copy.deepcopy(model).double(), torch.randn(32, 3, device="cuda")
    before = flat(twin)

    def residuals(network: nn.Module, x: Tensor) -> Tensor:
        """The targets, whatever the forward pass computes; with its Jacobian."""
        outputs: Tensor = network(x)
        return outputs - outputs.detach() + targets.to(x)

    GGN(model, damping=10.0, choose=choose).step(lambda: residuals(model, x))
    GGN(twin, damping=10.0, choose=choose).step(lambda: residuals(twin, x.double()))
    assert relative_error(flat(model) - before, flat(twin) - before) < 1e-4


@pytest.fixture
def waiting_is_an_error() -> Iterator[Callable[[], None]]:
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


DTYPES = (torch.float32, torch.float64)  # of the matrices that a step holds

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 2)), (256,)),
    "sequence": (lambda: nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Flatten(), nn.Linear(512, 2)), (16, 64)),
    "resnet": (_resnet, (3, 16, 16)),
}


def _stepping(network: str, **settings: Any) -> tuple[nn.Module, GGN, tuple[Tensor, Tensor], Callable[[], Tensor]]:
    """A model, its optimizer, inputs and targets, and a step on them; the choices are measured, the handles made."""
    make, shape = NETWORKS[network]
    model = make().double().cuda()
    optimizer = GGN(model, lr=0.5, damping=1.0, **settings)
    x = torch.randn(16, *shape, dtype=torch.float64, device="cuda")
    y = torch.randn(16, 2, dtype=torch.float64, device="cuda")

    def step() -> Tensor:
        return optimizer.step(lambda: model(x) - y)

    with _aside():
        for _ in range(3):
            step()
    return model, optimizer, (x, y), step


@functools.cache
def _other_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


@contextmanager
def _aside() -> Iterator[None]:
    """On another stream, as before a recording: memory that is given back there is taken again there."""
    stream, current = _other_stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_capturable_step_waits_for_nothing(
    network: str, momentum: float, waiting_is_an_error: Callable[[], None]
) -> None:
    model, optimizer, _, step = _stepping(network, momentum=momentum, capturable=True)
    before = flat(model)
    waiting_is_an_error()
    step()
    torch.cuda.set_sync_debug_mode("default")
    assert optimizer.info is not None
    assert bool(optimizer.info.accepted)
    assert not torch.equal(flat(model), before)


def test_an_ordinary_step_waits(waiting_is_an_error: Callable[[], None]) -> None:
    """So that the test above would notice."""
    _, _, _, step = _stepping("mlp")
    waiting_is_an_error()
    with pytest.raises(RuntimeError, match="synchroniz"):
        step()


@pytest.mark.parametrize("choose", ["auto", "counted"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_recorded_step_replays_whatever_happens_between(network: str, choose: Choose) -> None:
    """Ordinary steps on other batches take other matrices, and others take the memory that these give back."""
    model, optimizer, (x, y), step = _stepping(network, momentum=0.5, capturable=True, choose=choose)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    twin = copy.deepcopy(model)
    ordinary = GGN(twin, lr=0.5, damping=1.0, momentum=0.5, choose=choose)
    ordinary.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for samples in (5, 16, 40):
        other_x, other_y = (torch.randn(samples, *of.shape[1:]).to(of) for of in (x, y))
        with _aside():
            optimizer.step(lambda: model(other_x) - other_y)  # noqa: B023
            others = [torch.full((32, 32), torch.nan, dtype=dtype, device="cuda") for dtype in DTYPES for _ in range(9)]
        ordinary.step(lambda: twin(other_x) - other_y)  # noqa: B023
        x.normal_()
        y.normal_()
        graph.replay()
        assert torch.allclose(ordinary.step(lambda: twin(x) - y), loss)
        assert relative_error(flat(model), flat(twin)) < 1e-8
        assert all(bool(other.isnan().all()) for other in others)
