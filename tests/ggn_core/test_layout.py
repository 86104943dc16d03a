"""Which sample a row belongs to is found out, never assumed, and found out anew when it may have changed."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from ggn_core import GGN, gram
from ggn_core.capture import named_trainable, trace
from ggn_core.layout import layouts_by_proof, layouts_by_test
from ggn_core.linearizer import Linearizer
from ggn_core.reference import dense_gram, dense_step
from ggn_core.residuals import as_rows
from ggn_core.rowwise import places


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


class Tokens(nn.Module):
    """A transformer encoder over tokens; positions before samples inside, unless ``batch_first``."""

    def __init__(self, batch_first: bool):
        super().__init__()
        self.first = batch_first
        self.project, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        h = self.project(x)
        h = self.encoder(h) if self.first else self.encoder(h.transpose(0, 1)).transpose(0, 1)
        return self.head(h.mean(1))


class Attention(nn.Module):
    """Self-attention by hand: queries, keys and values from one projection, taken apart in one of two ways."""

    def __init__(self, width: int, way: str):
        super().__init__()
        self.way, self.project = way, nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        z = self.project(x)
        q, k, v = z.chunk(3, -1) if self.way == "chunk" else z.unflatten(-1, (3, -1)).unbind(-2)
        scores = torch.baddbmm(torch.zeros(len(x), x.shape[1], x.shape[1]).to(x), q, k.mT, alpha=x.shape[-1] ** -0.5)
        return torch.bmm(scores.softmax(-1), v)


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
        (
            lambda: nn.Sequential(
                nn.Conv1d(3, 4, 2), nn.InstanceNorm1d(4, affine=True), nn.Flatten(), nn.Linear(16, 1)
            ),
            (6, 3, 5),
        ),
        (lambda: Tokens(batch_first=True), (6, 4, 3)),
        (lambda: Tokens(batch_first=False), (6, 4, 3)),
        (lambda: nn.Sequential(Attention(4, "chunk"), nn.Flatten(), nn.Linear(20, 1)), (6, 5, 4)),
        (lambda: nn.Sequential(Attention(4, "unbind"), nn.Flatten(), nn.Linear(20, 1)), (6, 5, 4)),
    ],
)
def test_ordinary_networks_are_proved_once(make: Callable[[], nn.Module], inputs: tuple[int, ...]) -> None:
    """No test passes are spent on them, not even in the first step; a head of zeros changes nothing."""
    model = make()
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    outputs = model(torch.randn(inputs))
    traced = trace(outputs, named_trainable(model))
    assert all(layouts_by_proof(outputs, traced.uses, as_rows(outputs)))


class _After(nn.Module):
    """An operation between a layer and the residuals, on a tensor (n, 4, 6, 6)."""

    def __init__(self, operation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 3, padding=1)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.layer(x)).flatten(1).square().sum(1)


def _crossed(one: Tensor, other: Tensor) -> Tensor:
    return one + other.transpose(0, 1)


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
    "roll": lambda z: z.roll((1, 2), (-1, 1)) * z,
    "real-fourier": lambda z: torch.fft.irfft2(torch.fft.rfft2(z) * torch.linspace(0, 1, 4)),
    "fourier": lambda z: torch.fft.ifft(torch.fft.fft(z, dim=1).sin(), dim=1).real,
    "polar": lambda z: (torch.polar(z.abs() + 1, z).conj() * (1 + 2j)).real,
    "complex": lambda z: torch.complex(z, z.sin()).angle() * torch.view_as_complex(torch.stack([z, z], -1)).imag,
    "upsample": lambda z: F.interpolate(z, scale_factor=2),
    "bilinear": lambda z: F.interpolate(z, scale_factor=2, mode="bilinear"),
    "pixel-shuffle": lambda z: F.pixel_shuffle(z, 2),
    "unfold": lambda z: F.unfold(z, 2),
    "view-as": lambda z: z.view_as(z).sin(),
    "there-and-back": lambda z: z.permute(2, 1, 0, 3).cumsum(0).softmax(1).permute(2, 1, 0, 3),
    "split": lambda z: torch.cat([part.cumsum(2) for part in z.split(3, 1)][::-1], 1),
    "unbind": lambda z: torch.stack([part.square() for part in z.unbind(-1)], 1),
    "select": lambda z: z.select(-1, 2).sum(1) * z[:, 1].sum(1),
    "samples-in-columns": lambda z: torch.mm(torch.ones(2, 144).to(z), z.flatten(1).transpose(0, 1)).transpose(0, 1),
    "instance-norm": lambda z: F.instance_norm(z, weight=z.new_ones(4), bias=z.new_ones(4)),
    "batch-norm": lambda z: F.batch_norm(z.transpose(0, 1), *torch.tensor([[0.5] * 4, [2.0] * 4]).to(z)).transpose(
        0, 1
    ),
}

MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "pad-samples": lambda z: F.pad(z, (0, 0, 0, 0, 0, 0, 1, 0))[:-1],  # each sample takes its neighbour's place
    "statistics-over-samples": lambda z: (
        F.batch_norm(z.permute(1, 2, 3, 0).reshape(1, 4, -1), None, None, training=True)
        .view(4, 6, 6, -1)
        .permute(3, 0, 1, 2)
    ),
    "expand-one": lambda z: z[:1].expand(z.shape) * z,
    "stack-samples": lambda z: torch.stack([z, z.sin()], 0).transpose(0, 1).reshape(z.shape[0], -1).flip(0),
    "cumsum-samples": lambda z: z.cumsum(0),
    "flip-samples": lambda z: z.flip(0) * z,
    "roll-samples": lambda z: z.roll(1, 0) * z,
    "fourier-over-samples": lambda z: torch.fft.ifft(torch.fft.fft(z, dim=0).sin(), dim=0).real,
    "real-fourier-over-samples": lambda z: torch.fft.irfftn(
        torch.fft.rfftn(z, dim=(1, 0)).sin(), z.shape[1::-1], (1, 0)
    ),
    "norm-of-all": lambda z: z / torch.linalg.vector_norm(z),
    "attention-over-samples": lambda z: F.scaled_dot_product_attention(*(z.transpose(0, 2),) * 3).transpose(0, 2),
    "pad-and-cut": lambda z: F.pad(z, (0, 0, 0, 0, 0, 0, 1, -1)),  # the size stays, and the samples move
    "stack-in-place-of-samples": lambda z: torch.stack([z.sum(0)] * z.shape[0], -4),
    "stack-of-as-many": lambda z: torch.stack([z * k for k in range(1, 5)], -5),
    "softmax-over-samples": lambda z: z.permute(1, 2, 3, 0).softmax(-1).permute(3, 0, 1, 2),
    "split-samples": lambda z: torch.cat(z.split(2, 0)[::-1]),
    "unbind-samples": lambda z: torch.stack(z.unbind(0)[::-1]),
    "samples-for-channels": lambda z: z.transpose(0, 1).reshape(z.shape),  # as many channels as samples
    "broadcast-over-samples": lambda z: z * z[0],
    "layer-norm-over-samples": lambda z: F.layer_norm(z.permute(1, 2, 3, 0), (4,)).permute(3, 0, 1, 2),
    "convolution-over-samples": lambda z: F.conv2d(z.transpose(0, 1), torch.ones(4, 4, 1, 1).to(z)).transpose(0, 1),
    "both-ways": lambda z: z[:, :, 0, 0] + z[:, :, 0, 0].transpose(0, 1),
    "pieces-go-different-ways": lambda z: z[..., 0, 0].sin() + z[..., :2, 0].unbind(-1)[1].transpose(0, 1),
    "pieces-of-one-go-different-ways": lambda z: _crossed(*z[..., :2, 0].unbind(-1)),
    "rows-for-columns": lambda z: torch.mm(z.flatten(1).transpose(0, 1), torch.ones(4, 4).to(z)).transpose(0, 1),
    "bmm-over-samples": lambda z: torch.bmm(z.flatten(2).transpose(0, 1), z.flatten(2).permute(1, 2, 0)).mT,
}


def _hold_to_the_truth(residuals: Tensor) -> None:
    """Every claim about where samples are, against the derivatives of each sample's residuals."""
    samples = len(residuals)
    assert residuals.grad_fn is not None
    claims = places(residuals.grad_fn, tuple(residuals.shape), samples)
    edges = [GradientEdge(node, number) for node, number in claims if node is not None]
    for i in range(samples):
        gradients = torch.autograd.grad(residuals[i].sum(), edges, retain_graph=True, materialize_grads=True)
        for place, gradient in zip(claims.values(), gradients, strict=True):
            sample = torch.arange(gradient.numel()) // place.inner % samples
            assert gradient.numel() == place.outer * samples * place.inner
            assert not bool(gradient.reshape(-1)[sample != i].any())


def _check(operation: Callable[[Tensor], Tensor]) -> bool:
    """Holds the Gram matrix to the dense one; whether the graph was proved."""
    torch.manual_seed(0)
    model, x = _After(operation).double(), torch.randn(4, 2, 6, 6).double()
    expected = dense_gram(model, x)
    assert float((gram(model, x) - expected).norm() / expected.norm()) < 1e-10
    outputs = model(x)
    _hold_to_the_truth(outputs)
    return all(layouts_by_proof(outputs, trace(outputs, named_trainable(model)).uses, as_rows(outputs)))


@pytest.mark.parametrize("operation", KEEPING.values(), ids=KEEPING)
def test_operations_that_keep_samples_apart_are_proved(operation: Callable[[Tensor], Tensor]) -> None:
    assert _check(operation)


@pytest.mark.parametrize("operation", MIXING.values(), ids=MIXING)
def test_operations_that_mix_samples_are_not(operation: Callable[[Tensor], Tensor]) -> None:
    assert not _check(operation)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "sin": torch.sin, "gelu": F.gelu, "silu": F.silu, "elu": F.elu,
    "softplus": F.softplus, "leaky-relu": F.leaky_relu, "mish": F.mish, "log-sigmoid": F.logsigmoid,
    "relu": lambda z: z.relu() + z.square(), "hardtanh": lambda z: F.hardtanh(z) * z,
}  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_derivatives_by_the_inputs_are_proved_and_exact(activation: Callable[[Tensor], Tensor]) -> None:
    """The residuals of a differential equation, u_t + u u_x − u_xx, whose graph holds that of a backward pass."""
    first, second, head = nn.Linear(2, 6).double(), nn.Linear(6, 6).double(), nn.Linear(6, 1).double()
    model = nn.ModuleList([first, second, head])
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    u = head(activation(second(activation(first(x)))))
    (slopes,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (of_slope,) = torch.autograd.grad(slopes[:, 0].sum(), x, create_graph=True)
    residuals = slopes[:, 1] + u[:, 0] * slopes[:, 0] - of_slope[:, 0]

    uses = trace(residuals, named_trainable(model)).uses
    assert all(layouts_by_proof(residuals, uses, as_rows(residuals)))
    _hold_to_the_truth(residuals)
    jacobian = Linearizer()(residuals, named_trainable(model))
    assert not jacobian.generic
    rows = [torch.autograd.grad(r, list(model.parameters()), retain_graph=True) for r in residuals]
    expected = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    assert torch.allclose(jacobian.gram(), expected @ expected.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("make", "tests"), [(lambda: Rerouted(ROUTES["index"]), 2), (lambda: nn.Linear(3, 1), 0)])
def test_what_cannot_be_proved_is_tested_at_every_step(
    make: Callable[[], nn.Module], tests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    honest = layouts_by_test
    monkeypatch.setattr("ggn_core.linearizer.layouts_by_test", lambda *of: made.append(of) or honest(*of))
    linearizer = Linearizer()
    model, x = make().double(), torch.randn(5, 3).double()
    for _ in range(2):
        linearizer(model(x), named_trainable(model))
    assert len(made) == tests


def test_the_memory_of_graphs_is_bounded() -> None:
    from ggn_core.linearizer import REMEMBERED

    layer = nn.Linear(3, 4)
    linearizer = Linearizer()
    for samples in range(2, REMEMBERED + 20):
        linearizer(layer(torch.randn(samples, 3)), named_trainable(layer))
    assert 0 < len(linearizer._proofs) <= REMEMBERED


SIZES = (3, 2, 3, 4)  # samples, and as many of something else


class Wandering(nn.Module):
    """Random operations on a tensor (3, 2, 3, 4), its dimensions in ever another order, with a layer now and then."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed
        self.layers = nn.ModuleList([nn.Linear(size, size) for size in (2, 3, 4, 6, 8, 9, 12)])

    def forward(self, x: Tensor) -> Tensor:
        generator = random.Random(self.seed)
        z, order = self.layers[2](x), [0, 1, 2, 3]
        for _ in range(8):
            dim = generator.randrange(4)
            match generator.choice(("permute", "along", "layer", "merge", "product", "pieces")):
                case "permute":
                    by = generator.sample(range(4), 4)
                    z, order = z.permute(by), [order[k] for k in by]
                case "along":  # mixes what runs along that dimension: the samples, now and then
                    dim = dim if order[dim] > 0 or generator.random() < 0.2 else dim - 1
                    z = generator.choice((torch.cumsum, torch.softmax))(z, dim)
                case "layer":
                    z = self._layer(z).tanh()
                case "merge":  # two dimensions in one, a layer over the merged one or over the last
                    at = generator.randrange(3)
                    z = self._layer(z.flatten(at, at + 1)).tanh().unflatten(at, z.shape[at : at + 2])
                case "product":
                    flat = z.flatten(2)
                    z = torch.bmm(torch.bmm(flat, flat.mT).tanh(), flat).view(z.shape)
                case "pieces":
                    parts = z.split(1, dim) if generator.random() < 0.5 else z.unbind(dim)
                    z = torch.cat(parts, dim) if parts[0].dim() == 4 else torch.stack([p.sin() for p in parts], dim)
        return z.permute([order.index(k) for k in range(4)]).flatten(1).square().sum(1)

    def _layer(self, z: Tensor) -> Tensor:
        return next(layer for layer in self.layers if layer.in_features == z.shape[-1])(z)


@pytest.mark.parametrize(
    "seeds", [range(start, start + 25) for start in range(0, 200, 25)], ids=lambda seeds: seeds.start
)
def test_whatever_way_samples_go_what_is_proved_is_true(seeds: range) -> None:
    """Some are proved, and the Gram matrix is exact on all."""
    proved = 0
    for seed in seeds:
        torch.manual_seed(seed)
        model, x = Wandering(seed).double(), torch.randn(SIZES).double()
        outputs = model(x)
        used = torch.autograd.grad(outputs.sum(), list(model.parameters()), allow_unused=True)
        for p, gradient in zip(list(model.parameters()), used, strict=True):
            p.requires_grad_(gradient is not None)
        expected = dense_gram(model, x)
        assert float((gram(model, x) - expected).norm() / expected.norm()) < 1e-9, seed
        outputs = model(x)
        _hold_to_the_truth(outputs)
        proved += all(layouts_by_proof(outputs, trace(outputs, named_trainable(model)).uses, as_rows(outputs)))
    assert 3 <= proved < len(seeds)
