"""Networks nobody thought of: random layers in random order, held to the dense Jacobian like the listed ones."""

import copy

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ggn_core import GGN, gram
from ggn_core.reference import dense_gram, dense_step
from ggn_core.rules.base import as_real

ACTIVATIONS = [
    nn.ReLU,
    nn.Tanh,
    nn.GELU,
    nn.Softplus,
    nn.SiLU,
    lambda: nn.LeakyReLU(0.1),
    lambda: nn.ReLU(inplace=True),
]


class Residual(nn.Module):
    """x + f(x), where f keeps the shape."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Twice(nn.Module):
    """The same layers, used twice."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.tanh(self.inner(x)))


class Scaled(nn.Linear):
    """A linear layer over positions whose weight is a part of a parameter, in any order, times a number."""

    def __init__(self, take: str, scale: float):
        shape = {"transposed": (LENGTH, LENGTH), "cut": (LENGTH, LENGTH + 2), "stacked": (2 * LENGTH, LENGTH)}[take]
        super().__init__(shape[1], shape[0], bias=False)
        self.take, self.scale = take, scale

    def forward(self, x: Tensor) -> Tensor:
        if self.take == "stacked":
            for part in self.weight.view(2, LENGTH, LENGTH):
                x = nn.functional.linear(x, self.scale * part).tanh()
            return x
        return nn.functional.linear(
            x, (self.weight.T if self.take == "transposed" else self.weight[:, 1:-1]) * self.scale
        )


class Filter(nn.Module):
    """Frequencies along the positions, scaled and shifted, by complex or by real parameters."""

    def __init__(self, channels: int, dtype: torch.dtype):
        super().__init__()
        frequencies = LENGTH // 2 + 1
        self.scale = nn.Parameter(torch.randn(channels, frequencies, dtype=dtype))
        self.shift = nn.Parameter(torch.randn(frequencies, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * self.scale + self.shift, n=LENGTH)


@st.composite
def layers(draw: st.DrawFn, channels: int) -> tuple[list[nn.Module], int]:
    """A few layers from (n, channels, length), and the channels that come out; the length stays."""
    made: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(KINDS))
        if kind == "convolution":
            wider = draw(st.sampled_from([2, 4, 6]))
            size = draw(st.sampled_from([1, 3]))
            bias = draw(st.booleans())
            made.append(nn.Conv1d(channels, wider, size, padding=size // 2, bias=bias))
            channels = wider
        elif kind == "grouped":
            made.append(nn.Conv1d(channels, channels, 3, padding=2, dilation=2, groups=channels))
        elif kind == "norm":
            made.append(draw(st.sampled_from([nn.GroupNorm(1, channels), nn.BatchNorm1d(channels).eval()])))
        elif kind == "activation":
            made.append(draw(st.sampled_from(ACTIVATIONS))())
        elif kind == "residual":
            inner = [nn.Conv1d(channels, channels, 3, padding=1), draw(st.sampled_from([nn.Tanh, nn.Softplus]))()]
            made.append(Residual(nn.Sequential(*inner)))
        elif kind == "twice":
            made.append(Twice(nn.Conv1d(channels, channels, 1)))
        elif kind == "scaled":
            made.append(
                Scaled(draw(st.sampled_from(["transposed", "cut", "stacked"])), draw(st.sampled_from([-0.5, 2])))
            )
        elif kind == "filter":
            made.append(Filter(channels, draw(st.sampled_from([torch.complex128, torch.float64]))))
        else:  # a linear layer over positions
            made += [nn.Linear(LENGTH, LENGTH, bias=draw(st.booleans())), nn.LayerNorm(LENGTH)]
    return made, channels


LENGTH = 5
KINDS = ("convolution", "grouped", "norm", "activation", "residual", "twice", "scaled", "filter", "positions")


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64, a batch, and targets."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    body, channels = draw(layers(3))
    outputs = draw(st.integers(1, 3))
    head: list[nn.Module] = [nn.Flatten(), nn.Linear(channels * LENGTH, 4), nn.Tanh(), nn.Linear(4, outputs)]
    model = nn.Sequential(*body, *head).double()
    frozen = draw(st.sampled_from([None, 0, -1]))
    if frozen is not None:
        for p in model[frozen].parameters():
            p.requires_grad_(False)
    samples = draw(st.integers(1, 5))
    return model, torch.randn(samples, 3, LENGTH).double(), torch.randn(samples, outputs).double()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks())
def test_gram_and_step_equal_the_dense_ones(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = case
    expected = dense_gram(model, x)
    assert torch.allclose(gram(model, x), expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    change = dense_step(model, x, y, lr=0.7, damping=0.3)
    stepped = copy.deepcopy(model)
    GGN(stepped, lr=0.7, damping=0.3).step(lambda: stepped(x) - y)
    trainable = [(p, q) for p, q in zip(stepped.parameters(), model.parameters(), strict=True) if p.requires_grad]
    actual = torch.cat([as_real(p - q).detach().flatten() for p, q in trainable])
    assert torch.allclose(actual, change, rtol=1e-7, atol=1e-9 * float(change.abs().max()))
