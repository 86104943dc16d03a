"""Which sample a row belongs to is found out, never assumed, and found out anew when it may have changed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ggn_core import GGN, gram
from ggn_core.capture import named_trainable, trace
from ggn_core.jacobian import Linearizer, as_rows
from ggn_core.layout import certify
from ggn_core.reference import dense_gram, dense_step


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


class Rerouted(nn.Module):
    """Rows pass through ``route`` between two layers, and back afterwards."""

    def __init__(self, route: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.route = route
        self.matrix = torch.eye(5).double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.route(self.matrix, self.first(x).tanh())
        return self.head(self.second(h).tanh())


class Swap(torch.autograd.Function):
    """A custom function that permutes rows as a matrix says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, h: Tensor) -> Tensor:
        return matrix @ h

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, Tensor]:  # type: ignore[no-untyped-def]
        return None, ctx.saved_tensors[0].T @ g


ROUTES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda m, h: h[m.argmax(1)],
    "index_select": lambda m, h: h.index_select(0, m.argmax(1)),
    "gather": lambda m, h: h.gather(0, m.argmax(1, keepdim=True).expand_as(h)),
    "take_along_dim": lambda m, h: h.take_along_dim(m.argmax(1, keepdim=True), 0),
    "index_add": lambda m, h: torch.zeros_like(h).index_add(0, m.argmax(0), h),
    "scatter": lambda m, h: torch.zeros_like(h).scatter(0, m.argmax(0, keepdim=True).T.expand_as(h), h),
    "index_put": lambda m, h: torch.zeros_like(h).index_put((m.argmax(0),), h),
    "mm": lambda m, h: m @ h,
    "bmm": lambda m, h: torch.bmm(m.unsqueeze(0), h.unsqueeze(0)).squeeze(0),
    "einsum": lambda m, h: torch.einsum("ij,jd->id", m, h),
    "addmm": lambda m, h: torch.addmm(torch.zeros_like(h), m, h),
    "mv": lambda m, h: torch.stack([torch.mv(m, h[:, j]) for j in range(4)], 1),
    "roll": lambda m, h: h.roll(int(m.argmax(1)[0]), 0),
    "custom function": Swap.apply,
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_that_changes_between_steps_is_followed(route: str) -> None:
    """The first step, where the route is the identity, must not vouch for the second, where samples trade places.

    Trading places and staying there makes residual i depend on sample j's row: the layer before is no longer laid out
    as certified.
    """
    model = Rerouted(ROUTES[route]).double()
    optimizer = GGN(model, lr=0.5, damping=0.3)
    x, y = torch.randn(5, 3).double(), torch.randn(5, 1).double()
    for matrix in (torch.eye(5), torch.eye(5).roll(2, 0), torch.eye(5)[[1, 0, 2, 4, 3]], torch.eye(5)):
        model.matrix = matrix.double()
        before = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        change = dense_step(model, x, y, lr=0.5, damping=0.3)
        optimizer.step(lambda: model(x) - y)
        after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        assert torch.allclose(after - before, change, rtol=1e-9, atol=1e-13)


def test_mixing_is_noticed_however_weak() -> None:
    """Each sample sees a millionth of its neighbour."""

    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x).tanh()
            return self.head(h + 1e-6 * h.roll(1, 0))

    model, x = Leaky().double(), torch.randn(5, 3).double()
    expected = dense_gram(model, x)
    assert float((gram(model, x) - expected).norm() / expected.norm()) < 1e-12


def _certificates(model: nn.Module, x: Tensor, steps: int) -> int:
    """How many graphs are remembered after some steps' linearizations."""
    linearizer = Linearizer()
    for _ in range(steps):
        linearizer(model(x), named_trainable(model))
    return len(linearizer._certificates)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 1)), (6, 3)),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)), (6, 5, 3)),
        (
            lambda: nn.Sequential(
                nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 1)
            ),
            (6, 2, 5, 5),
        ),
        (
            lambda: nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4).eval(), nn.Flatten(), nn.Linear(16, 1)),
            (6, 3, 5),
        ),
    ],
)
def test_ordinary_networks_are_proved_once(make: Callable[[], nn.Module], inputs: tuple[int, ...]) -> None:
    """No test passes are spent on them, not even in the first step; a head of zeros changes nothing."""
    model = make()
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    outputs = model(torch.randn(inputs))
    traced = trace(outputs, named_trainable(model))
    assert certify(outputs, traced.uses, as_rows(outputs)).lasting


class _After(nn.Module):
    """An operation between a layer and the residuals, on a tensor (n, 4, 6, 6)."""

    def __init__(self, operation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 3, padding=1)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.layer(x)).flatten(1).square().sum(1)


def _heads(z: Tensor) -> Tensor:
    return z.flatten(2)  # (n, 4, 36)


KEEPING: dict[str, Callable[[Tensor], Tensor]] = {
    "pad": lambda z: F.pad(z, (1, 0, 2, 0)),
    "pad-channels": lambda z: F.pad(z[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),  # the shortcut of a CIFAR ResNet
    "reflection": lambda z: F.pad(z, (1, 1, 1, 1), mode="reflect"),
    "bmm": lambda z: torch.bmm(_heads(z), _heads(z).transpose(1, 2)),
    "attention": lambda z: F.scaled_dot_product_attention(z, z.tanh(), z),
    "expand": lambda z: z[:, :1].expand(z.shape) * z,
    "stack": lambda z: torch.stack([z, z.sin()], 2),
    "where": lambda z: torch.where(z > 0, z, z.square()),
    "masked-fill": lambda z: z.masked_fill(z < 0, 0.5),
    "maximum": lambda z: torch.maximum(z, -z),
    "cumsum": lambda z: z.cumsum(2),
    "amax": lambda z: z.amax((2, 3)),
    "logsumexp": lambda z: z.logsumexp(1),
    "var": lambda z: z.var((2, 3)),
    "norm": lambda z: torch.linalg.vector_norm(z, dim=1),
    "glu": lambda z: F.glu(z, 1),
    "flip": lambda z: z.flip(2) * z,
    "upsample": lambda z: F.interpolate(z, scale_factor=2),
    "bilinear": lambda z: F.interpolate(z, scale_factor=2, mode="bilinear"),
    "pixel-shuffle": lambda z: F.pixel_shuffle(z, 2),
    "unfold": lambda z: F.unfold(z, 2),
    "view-as": lambda z: z.view_as(z).sin(),
}

MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "pad-samples": lambda z: F.pad(z, (0, 0, 0, 0, 0, 0, 1, 0))[:-1],  # each sample takes its neighbour's place
    "expand-one": lambda z: z[:1].expand(z.shape) * z,
    "stack-samples": lambda z: torch.stack([z, z.sin()], 0).transpose(0, 1).reshape(z.shape[0], -1).flip(0),
    "cumsum-samples": lambda z: z.cumsum(0),
    "flip-samples": lambda z: z.flip(0) * z,
    "norm-of-all": lambda z: z / torch.linalg.vector_norm(z),
    "attention-over-samples": lambda z: F.scaled_dot_product_attention(*(z.transpose(0, 2),) * 3).transpose(0, 2),
    "bmm-over-samples": lambda z: torch.bmm(z.flatten(2).transpose(0, 1), z.flatten(2).permute(1, 2, 0)).mT,
}


def _check(operation: Callable[[Tensor], Tensor]) -> bool:
    """Holds the Gram matrix to the dense one; whether the graph was proved."""
    torch.manual_seed(0)
    model, x = _After(operation).double(), torch.randn(4, 2, 6, 6).double()
    expected = dense_gram(model, x)
    assert float((gram(model, x) - expected).norm() / expected.norm()) < 1e-10
    outputs = model(x)
    return certify(outputs, trace(outputs, named_trainable(model)).uses, as_rows(outputs)).lasting


@pytest.mark.parametrize("operation", KEEPING.values(), ids=KEEPING)
def test_operations_that_keep_samples_apart_are_proved(operation: Callable[[Tensor], Tensor]) -> None:
    assert _check(operation)


@pytest.mark.parametrize("operation", MIXING.values(), ids=MIXING)
def test_operations_that_mix_samples_are_not(operation: Callable[[Tensor], Tensor]) -> None:
    assert not _check(operation)


def test_what_cannot_be_proved_is_not_remembered() -> None:
    linearizer = Linearizer()
    model, x = Rerouted(ROUTES["index"]).double(), torch.randn(5, 3).double()
    linearizer(model(x), named_trainable(model))
    assert not linearizer._certificates


def test_the_memory_of_graphs_is_bounded() -> None:
    from ggn_core.jacobian import REMEMBERED

    layer = nn.Linear(3, 4)
    linearizer = Linearizer()
    for samples in range(2, REMEMBERED + 20):
        linearizer(layer(torch.randn(samples, 3)), named_trainable(layer))
    assert 0 < len(linearizer._certificates) <= REMEMBERED
