"""The Gram matrix: over sizes, per rule, and per architecture."""

from typing import ClassVar

from torch import nn

from ggn_core import gram

from .networks import ARCHITECTURES, BATCHES, DEVICES, RULES, WIDTHS, Workload, made, mlp, synchronize

BATCH = 32


class _Timed:
    """``gram(model, inputs)`` on a workload."""

    def prepare(self, workload: Workload, device: str) -> None:
        self.model: nn.Module = workload.model
        self.inputs = workload.inputs
        self.run(device)  # first-time costs

    def run(self, device: str) -> None:
        gram(self.model, self.inputs)
        synchronize(device)


class Gram(_Timed):
    """On multilayer perceptrons with three hidden layers."""

    params: ClassVar = [WIDTHS, BATCHES, DEVICES]
    param_names = ("width", "batch", "device")

    def setup(self, width: int, batch: int, device: str) -> None:
        self.prepare(mlp(width, batch, device), device)

    def time_gram(self, width: int, batch: int, device: str) -> None:
        self.run(device)


class GramOfRule(_Timed):
    """On networks in which one rule has most of the work."""

    params: ClassVar = [list(RULES), DEVICES]
    param_names = ("rule", "device")

    def setup(self, rule: str, device: str) -> None:
        self.prepare(made(RULES[rule], BATCH, device), device)

    def time_gram(self, rule: str, device: str) -> None:
        self.run(device)


class GramOfArchitecture(_Timed):
    """On networks as they are built in practice."""

    params: ClassVar = [list(ARCHITECTURES), DEVICES]
    param_names = ("architecture", "device")

    def setup(self, architecture: str, device: str) -> None:
        self.prepare(made(ARCHITECTURES[architecture], BATCH, device), device)

    def time_gram(self, architecture: str, device: str) -> None:
        self.run(device)
