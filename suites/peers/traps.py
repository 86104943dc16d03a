"""Small networks in which a layer-wise Gram matrix goes wrong unless the library looks closely."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .networks import Workload

__all__ = ["FLOAT64", "TRAPS"]

FLOAT64 = "float64 kept"  # the one trap whose network and batch are in float64


class TiedLinears(nn.Module):
    """Two layers that share a weight and keep their own biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(x).tanh()).tanh())
        return logits


class UsedTwice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(self.layer(x).tanh()).tanh())
        return logits


class BareParameter(nn.Module):
    """A scale that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale, self.head = nn.Linear(6, 6), nn.Parameter(torch.rand(6) + 0.5), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((self.layer(x) * self.scale).tanh())
        return logits


class TiedEmbedding(nn.Module):
    """A language model's habit: the head's weight is the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(2, 6), nn.Linear(6, 2, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(x).sin().mean(1))
        return logits


def _convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.Tanh(), nn.Flatten(), nn.Linear(32, 2))


def _grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 2))


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


class _Tokens(Workload):
    """Inputs that are indices into the table."""

    def load(self) -> tuple[nn.Module, Tensor, Tensor]:
        model, inputs, targets = super().load()
        return model, (inputs > 0).long(), targets


class _Double(Workload):
    """Everything in float64."""

    def load(self) -> tuple[nn.Module, Tensor, Tensor]:
        model, inputs, targets = super().load()
        return model.double(), inputs.double(), targets.double()


def _vectors(name: str, network: Callable[[], nn.Module]) -> Workload:
    return Workload(name, network, (8, 6), 2)


TRAPS: dict[str, Workload] = {
    trap.title: trap
    for trap in (
        _vectors("tied Linears", TiedLinears),
        _vectors("module used twice", UsedTwice),
        _vectors("bare nn.Parameter", BareParameter),
        Workload("grouped convolution", _grouped, (8, 4, 4, 4), 2),
        _Tokens("Embedding tied to head", TiedEmbedding, (8, 3), 2),
        _Double(FLOAT64, _convolution, (8, 4, 4, 4), 2),
        Workload("BatchNorm in training mode", _batch_norm, (8, 6), 2, independent=False),
    )
}
