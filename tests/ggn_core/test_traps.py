"""Models and closures that mislead: each step is compared with a plain loop of gradients, over several steps."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from compared import flat
from torch import Tensor, nn
from torch.nn import functional

from ggn_core import GGN, NonFiniteError, ResidualsError, SettingError, UnsupportedError, gram
from ggn_core.reference import dense_gram, dense_step

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _loop(residuals: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """The dense Jacobian, one backward pass a residual."""
    rows = []
    for value in residuals.reshape(-1):
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([g.reshape(-1).double() for g in gradients]))
    return torch.stack(rows)


def _follow(model: nn.Module, closures: list[Callable[[], Tensor]], tolerance: float = 1e-9) -> None:
    """Takes one step a closure, each compared with the dense one from the same point."""
    optimizer = GGN(model, lr=0.7, damping=0.3)
    parameters = list(model.parameters())
    for closure in closures:
        state = torch.random.get_rng_state()
        residuals = closure()
        torch.random.set_rng_state(state)
        jacobian, r = _loop(residuals, parameters), residuals.detach().reshape(-1).double()
        damped = jacobian @ jacobian.T + 0.3 * torch.eye(len(r)).double()
        change = -0.7 * jacobian.T @ torch.linalg.solve(damped, r)
        loss = residuals.detach().square().mean().clone()
        before = torch.cat([p.detach().reshape(-1).double() for p in parameters])
        returned = optimizer.step(closure)
        after = torch.cat([p.detach().reshape(-1).double() for p in parameters])
        assert float((after - before - change).norm() / change.norm()) < tolerance
        assert torch.allclose(returned, loss)


def _mlp(inputs: int = 3, outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(3)).double()


class Holder(nn.Module):
    """Parameters and layers in one module."""

    def __init__(self, **parts: object):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


# parameters as data


def test_a_layer_whose_input_is_a_parameter() -> None:
    model = Holder(latent=nn.Parameter(torch.randn(6, 3).double()), layer=nn.Linear(3, 1).double())
    _follow(model, [lambda: model.layer(model.latent)] * 2)


def test_a_layer_whose_input_is_a_detached_parameter() -> None:
    model = Holder(latent=nn.Parameter(torch.randn(6, 3).double()), layer=nn.Linear(3, 1).double())
    _follow(model, [lambda: model.layer(model.latent.detach()) + model.latent.sum(1, keepdim=True)] * 2)


def test_a_product_of_two_parameters_as_a_weight() -> None:
    model = Holder(a=nn.Parameter(torch.randn(3, 2).double()), b=nn.Parameter(torch.randn(1, 2).double()))
    _follow(model, [lambda: functional.linear(X[:1], model.b @ model.a.T)] * 2)
    _follow(model, [lambda: functional.linear(X, model.b @ model.a.T)] * 2)


def test_residuals_that_are_a_view_of_a_parameter() -> None:
    model = Holder(theta=nn.Parameter(torch.randn(4).double()))
    _follow(model, [lambda: model.theta.view(-1, 1)])


def test_a_bias_of_one_entry_for_all_outputs() -> None:
    model = Holder(weight=nn.Parameter(torch.randn(5, 3).double()), bias=nn.Parameter(torch.randn(1).double()))
    _follow(model, [lambda: functional.linear(X, model.weight, model.bias)] * 2)


def test_parameters_of_several_dtypes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 1).double()
    both = nn.ModuleList(model)
    _follow(both, [lambda: both[1](both[0](X.float()).double()) - 1] * 2, tolerance=1e-5)
    single = nn.Linear(3, 1)
    _follow(single, [lambda: single(X.float()) - torch.ones(6, 1).double()] * 2, tolerance=1e-5)


# samples that meet


@pytest.mark.parametrize("samples", [9, 28, 64, 100, 200])
def test_two_samples_that_meet_among_many(samples: int) -> None:
    model = _mlp(1)
    x = torch.linspace(0, 1, samples).double()[:, None]

    def periodic() -> Tensor:
        u = model(x)
        return torch.cat([u[:-1] - x[:-1], u[-1:] - u[:1]])

    _follow(model, [periodic])


def test_a_sample_that_dominates_another() -> None:
    model = _mlp().float()

    def closure() -> Tensor:
        u = model(X.float())
        return torch.cat([u[:-1] - u[-1:], 1e6 * u[-1:]])

    jacobian = _loop(closure(), list(model.parameters()))
    expected = jacobian @ jacobian.T
    found = gram(Holder(inner=model, forward=lambda _: closure()), X).double()
    scale = expected.diagonal().sqrt()
    assert float(((found - expected).abs() / (scale * scale[:, None])).max()) < 1e-4


def _warming_up(couple: Callable[[Tensor, float], Tensor]) -> list[Callable[[], Tensor]]:
    model = _mlp()
    _MODELS.append(model)
    return [lambda w=w: couple(model(X), w) - 0.5 for w in (0.0, 0.5, 1.0)]


_MODELS: list[nn.Module] = []

COUPLINGS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": lambda f, w: f + w * (f - f.mean()),
    "roll": lambda f, w: f + w * f.roll(1, 0),
    "where": lambda f, w: torch.where(torch.arange(6)[:, None] < 6 * w, f.flip(0), f),
    "embedding": lambda f, w: functional.embedding(torch.arange(6).roll(int(2 * w)), f),
    "maximum": lambda f, w: torch.maximum(f, f.flip(0) - 100 * (1 - w)),
    "mask": lambda f, w: (torch.eye(6).roll(int(2 * w), 0).double()[:, :, None] * f[None]).sum(1),
    "right factor": lambda f, w: (f.T @ torch.eye(6).roll(int(2 * w), 0).double()).T,
    "einsum": lambda f, w: torch.einsum("jd,ij->id", f, torch.eye(6).roll(int(2 * w), 0).double()),
    "chunks": lambda f, w: torch.cat(f.chunk(2) if w < 0.5 else f.chunk(2)[::-1]),
    "stack": lambda f, w: torch.stack(f.unbind() if w < 0.5 else f.unbind()[::-1]),
    "heads": lambda f, w: torch.bmm(torch.eye(6).roll(int(2 * w), 0).double().expand(6, 6, 6), f.expand(6, 6, 1)).mean(
        0
    ),
    "attention": lambda f, w: functional.scaled_dot_product_attention(
        f[None], f[None], f[None], torch.eye(6, dtype=torch.bool) if w < 0.5 else torch.ones(6, 6, dtype=torch.bool)
    )[0],
}


@pytest.mark.parametrize("name", COUPLINGS)
def test_coupling_that_begins_after_the_first_step(name: str) -> None:
    closures = _warming_up(COUPLINGS[name])
    _follow(_MODELS.pop(), closures)


# torch's own pitfalls


def test_distances_are_not_vectorised() -> None:
    """In torch 2.13, vmap vectorises the backward pass of cdist wrongly."""
    model = Holder(centres=nn.Parameter(torch.randn(5, 3).double()), head=nn.Linear(5, 2).double())
    _follow(model, [lambda: model.head((-torch.cdist(X, model.centres)).exp())] * 2)


def test_a_backward_function_that_writes_into_its_gradient() -> None:
    class Doubling(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return 2 * z

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            g.mul_(2)
            return torch.from_numpy(g.numpy().copy())

    model = _mlp(outputs=3)
    jacobian = 2 * _loop(model(X), list(model.parameters()))
    found = gram(Holder(inner=model, forward=lambda _: Doubling.apply(model(X))), X)
    assert torch.allclose(found, jacobian @ jacobian.T, rtol=1e-9)


def test_a_custom_function_that_stops_gradients() -> None:
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z: Tensor, w: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return z + w

        @staticmethod
        def backward(ctx, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
            return g, None

    model = Holder(inner=_mlp(), shift=nn.Parameter(torch.zeros(1).double()))
    _follow(model, [lambda: Stop.apply(model.inner(X), model.shift)])


def test_sparse_gradients() -> None:
    model = Holder(bag=nn.EmbeddingBag(5, 3, sparse=True, mode="sum").double(), head=nn.Linear(3, 1).double())
    tokens = torch.randint(0, 5, (6, 2))
    optimizer = GGN(model, lr=0.7, damping=0.3)
    before = float(optimizer.step(lambda: model.head(model.bag(tokens)) - 1))
    assert float(optimizer.step(lambda: model.head(model.bag(tokens)) - 1)) < before


# refusals, and what they leave behind


def test_gradient_hooks_are_refused() -> None:
    model = _mlp()
    model[0].weight.register_hook(lambda g: g * 0)
    with pytest.raises(UnsupportedError, match=r"'0\.weight' has a gradient hook"):
        GGN(model).step(lambda: model(X))


def test_a_closure_that_calls_backward() -> None:
    model = _mlp()

    def closure() -> Tensor:
        residuals = model(X)
        residuals.sum().backward()
        return residuals

    with pytest.raises(ResidualsError, match="must not call backward"):
        GGN(model).step(closure)


def test_a_step_too_large_for_its_dtype_changes_nothing() -> None:
    model = nn.Linear(3, 1)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match="not finite"):
        GGN(model, lr=1e300, damping=1e-3).step(lambda: model(X.float()) + 1e18)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_settings_of_another_type() -> None:
    with pytest.raises(SettingError, match="lr must be a finite number ≥ 0, got str 'a'"):
        GGN(_mlp(), lr="a")  # type: ignore[arg-type]


# the optimizer as an object


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(clone: Callable[[tuple[nn.Module, GGN]], tuple[nn.Module, GGN]]) -> None:
    model = _mlp()
    optimizer = GGN(model, lr=0.5)
    optimizer.step(lambda: model(X))
    twin, other = clone((model, optimizer))
    optimizer.step(lambda: model(X))
    other.step(lambda: twin(X))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_parameter_set_free_later_is_trained() -> None:
    model = _mlp()
    model[0].requires_grad_(False)
    optimizer = GGN(model)
    optimizer.step(lambda: model(X))
    model[0].requires_grad_(True)
    before = model[0].weight.clone()
    optimizer.step(lambda: model(X))
    assert not torch.equal(model[0].weight, before)


class _Scaled(nn.Module):
    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(())), nn.Linear(3, 2)
        self.nothing = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x).sum(1) * self.scale.repeat(())
        return h + self.nothing.sum()


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("positions", [0, 1, 2])
def test_what_is_empty_adds_nothing(samples: int, positions: int) -> None:
    """Sequences without positions, parameters without entries."""
    model, x = _Scaled((0, 3)).double(), torch.randn(samples, positions, 3).double()
    expected = dense_gram(model, x)
    assert torch.allclose(gram(model, x), expected, rtol=1e-10, atol=1e-12)


class _Stopped(torch.autograd.Function):
    """The identity, with no gradient at all."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> None:  # type: ignore[override]
        return None


class _Halfway(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.GroupNorm(1, 2), nn.Tanh()) for _ in range(2)
        )
        self.head = nn.Linear(18, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(_Stopped.apply(self.first(x))).flatten(1))


@pytest.mark.parametrize("outputs", [1, 2])
def test_layers_that_no_gradient_comes_to_have_rows_of_zeros(outputs: int) -> None:
    model, x = _Halfway(outputs).double(), torch.randn(4, 2, 3, 3).double()
    after = nn.Sequential(model.second, nn.Flatten(), model.head)  # all that acts
    inputs, before = model.first(x).detach(), flat(model.first)
    change = dense_step(after, inputs, torch.ones(4, outputs).double(), lr=1.0, damping=0.5)
    expected = flat(after) + change
    assert torch.allclose(gram(model, x), dense_gram(after, inputs), rtol=1e-10)
    GGN(model, damping=0.5).step(lambda: model(x) - 1)
    assert torch.equal(flat(model.first), before)
    assert torch.allclose(flat(after), expected, rtol=1e-10)
