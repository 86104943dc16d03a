"""The workloads: four on which every peer is measured, and three on which ggn_core alone is."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from harness.problems.resnets import resnet
from harness.wording import counted

__all__ = ["SHARED", "WORKLOADS", "Workload"]


@dataclass(frozen=True)
class Workload:
    """A network and a batch, always the same.

    Attributes:
        title: Shown in tables and figures.
        network: Makes the network.
        inputs: Shape of the inputs, batch first.
        outputs: Values a sample.
        tiny: The same kind of network and batch, small: what a process pays only once is paid on it.
        independent: Samples do not see each other.
        alone: Only ggn_core is measured, beside SGD and Adam: where one of the costs of its step stands out.
    """

    title: str
    network: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    outputs: int
    tiny: "Workload | None" = None
    independent: bool = True
    alone: bool = False

    def load(self) -> tuple[nn.Module, Tensor, Tensor]:
        """The network, inputs of shape ``inputs`` and targets of shape (n, o), in float32."""
        torch.manual_seed(0)
        return self.network(), torch.randn(self.inputs), torch.randn(self.inputs[0], self.outputs)


def mlp(*widths: int) -> nn.Module:
    """A ReLU network in torch's default initialization."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _mlp(title: str, widths: tuple[int, ...], batch: int, alone: bool = False) -> Workload:
    small = (4, 8, widths[-1])
    tiny = Workload("tiny", lambda: mlp(*small), (2, 4), widths[-1])
    return Workload(title, lambda: mlp(*widths), (batch, widths[0]), widths[-1], tiny, alone=alone)


def _resnet(outputs: int, batch: int) -> Workload:
    """With GroupNorm: samples must not see each other."""

    def network(depth: int) -> nn.Module:
        return resnet("groupnorm", channels=3, width=16, depth=depth, outputs=outputs, seed=0)

    title = f"ResNet-32, {counted(outputs, 'output')}, batch {batch}"
    tiny = Workload("tiny", lambda: network(8), (2, 3, 8, 8), outputs)
    return Workload(title, lambda: network(32), (batch, 3, 32, 32), outputs, tiny)


WORKLOADS = {
    "mlp-1": _mlp("MLP 784-1024³-1, batch 128", (784, 1024, 1024, 1024, 1), 128),
    "mlp-10": _mlp("MLP 784-512²-10, batch 64", (784, 512, 512, 10), 64),
    "resnet-1": _resnet(1, 32),
    "resnet-10": _resnet(10, 8),
    # Wide: the floor. Small: what Python costs. A large batch: what the Gram matrix costs.
    "mlp-wide": _mlp("MLP 64-2048³-1, batch 128", (64, 2048, 2048, 2048, 1), 128, alone=True),
    "mlp-small": _mlp("MLP 64-256³-1, batch 64", (64, 256, 256, 256, 1), 64, alone=True),
    "mlp-batch": _mlp("MLP 64-1024³-1, batch 512", (64, 1024, 1024, 1024, 1), 512, alone=True),
}

SHARED = [name for name, workload in WORKLOADS.items() if not workload.alone]
