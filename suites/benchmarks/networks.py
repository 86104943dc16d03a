"""Networks and batches that the benchmarks share, and the grids that they run on.

Environment variables choose the grids:

- ``GGN_BENCHMARK_GRID``: ``small`` (the default, minutes in all) or ``large``.
- ``GGN_BENCHMARK_DEVICES``: separated by commas; ``cpu`` by default.
- ``GGN_BENCHMARK_THREADS``: 1 by default. A second thread waits at every barrier for a core that a neighbour may hold:
  one thread measures the code, two measure the machine.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["ARCHITECTURES", "BATCHES", "DEVICES", "RULES", "WIDTHS", "Workload", "made", "mlp", "synchronize"]

LARGE = os.environ.get("GGN_BENCHMARK_GRID", "small") == "large"
DEVICES = os.environ.get("GGN_BENCHMARK_DEVICES", "cpu").split(",")
THREADS = int(os.environ.get("GGN_BENCHMARK_THREADS", "1"))
WIDTHS = [64, 512, 1024, 4096] if LARGE else [64, 512]
BATCHES = [32, 128, 512] if LARGE else [32, 128]

INPUTS = 64


class Workload(NamedTuple):
    """A model, inputs and targets of one batch."""

    model: nn.Sequential
    inputs: Tensor
    targets: Tensor


class _Mean(nn.Module):
    """The mean over positions: (n, T, d) → (n, d)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _Affine(nn.Module):
    """x · scale + shift, parameters that no layer owns."""

    def __init__(self, features: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(features) + 0.5), nn.Parameter(torch.randn(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class _Ensemble(nn.Module):
    """Members side by side, each a layer of their own on (b, width); their outputs, (b, members)."""

    def __init__(self, width: int, members: int):
        super().__init__()
        self.first = nn.Parameter(torch.randn(members, width, width) / width**0.5)
        self.second = nn.Parameter(torch.randn(members, width, 1) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.bmm(x.expand(len(self.first), -1, -1), self.first).tanh()
        return torch.bmm(hidden, self.second).squeeze(2).T


class _Scaled(nn.Linear):
    """A layer in the NTK parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight / self.in_features**0.5, self.bias)


class _Power(nn.Module):
    """(1 + x²)^exponent, a use that no rule recognises."""

    def __init__(self, features: int):
        super().__init__()
        self.exponent = nn.Parameter(torch.rand(features) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return (1 + x.square()) ** self.exponent


class _LastState(nn.Module):
    """A recurrent network's last state."""

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM]):
        super().__init__()
        self.cell = cell(16, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.cell(x)[0]
        return states[:, -1]


def _layers(width: int, depth: int, outputs: int) -> list[nn.Module]:
    made: list[nn.Module] = []
    for fan_in in (INPUTS, *[width] * (depth - 1)):
        made += [nn.Linear(fan_in, width), nn.ReLU()]
    return [*made, nn.Linear(width, outputs)]


def _vectors(batch: int) -> Tensor:
    return torch.randn(batch, INPUTS)


def _sequences(batch: int) -> Tensor:
    return torch.randn(batch, 8, 16)


def _images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 12, 12)


def _tokens(batch: int) -> Tensor:
    return torch.randint(0, 500, (batch, 16))


Make = tuple[Callable[[], list[nn.Module]], Callable[[int], Tensor]]

# One network per rule of ggn_core/rules/, in which that rule has most of the work.
RULES: dict[str, Make] = {
    "linear": (lambda: _layers(256, 2, 1), _vectors),
    "sequence": (
        lambda: [nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), _Mean(), nn.Linear(64, 1)],
        _sequences,
    ),
    "convolution": (
        lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, 1)],
        _images,
    ),
    "normalization": (lambda: [nn.LayerNorm(INPUTS), nn.Tanh(), nn.LayerNorm(INPUTS), nn.Linear(INPUTS, 1)], _vectors),
    "elementwise": (lambda: [_Affine(INPUTS), nn.Tanh(), _Affine(INPUTS), nn.Linear(INPUTS, 1)], _vectors),
    "embedding": (lambda: [nn.Embedding(500, 32), _Mean(), nn.Tanh(), nn.Linear(32, 1)], _tokens),
    "batched products": (lambda: [_Ensemble(INPUTS, 4), nn.Linear(4, 1)], _vectors),
    "weight norm": (
        lambda: [weight_norm(nn.Linear(INPUTS, 64)), nn.Tanh(), weight_norm(nn.Linear(64, 64)), nn.Tanh(),
                 nn.Linear(64, 1)],
        _vectors,
    ),
    "relabelled": (
        lambda: [_Scaled(INPUTS, 64), nn.Tanh(), _Scaled(64, 64), nn.Tanh(), nn.Linear(64, 1)],
        _vectors,
    ),
    "derived": (
        lambda: [weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), weight_norm(nn.Conv2d(8, 8, 3)), nn.Flatten(),
                 nn.Linear(512, 1)],
        _images,
    ),
    "generic": (lambda: [_Power(INPUTS), nn.Tanh(), _Power(INPUTS), nn.Linear(INPUTS, 1)], _vectors),
}  # fmt: skip

# Networks as they are built in practice.
ARCHITECTURES: dict[str, Make] = {
    "mlp, 10 outputs": (lambda: _layers(128, 2, 10), _vectors),
    "convolutional": (
        lambda: [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
                 nn.Flatten(), nn.Linear(144, 1)],
        _images,
    ),
    "transformer": (
        lambda: [nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), _Mean(), nn.Linear(16, 1)],
        _sequences,
    ),
    "recurrent": (lambda: [_LastState(nn.GRU), nn.Linear(16, 1)], _sequences),
    "lstm": (lambda: [_LastState(nn.LSTM), nn.Linear(16, 1)], _sequences),
}  # fmt: skip


def mlp(width: int, batch: int, device: str, depth: int = 3, outputs: int = 1) -> Workload:
    """A ReLU network with ``depth`` hidden layers, always the same for the same arguments."""
    return made((lambda: _layers(width, depth, outputs), _vectors), batch, device)


def made(make: Make, batch: int, device: str) -> Workload:
    """The network of a table above on a batch, always the same for the same arguments.

    Raises:
        NotImplementedError: The device is not there: asv and the gate take it for "skip this one".
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise NotImplementedError(f"no {device} here")
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    layers, inputs = make
    model = nn.Sequential(*layers()).to(device)
    x = inputs(batch).to(device)
    with torch.no_grad():
        return Workload(model, x, torch.randn_like(model(x)))


def synchronize(device: str) -> None:
    """Waits for the device's work to be done; nothing to wait for on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
