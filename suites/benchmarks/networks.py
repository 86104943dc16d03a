"""Networks and batches that the benchmarks share."""

from itertools import pairwise

import torch
from torch import Tensor, nn

THREADS = 2

# name -> (layer widths, batch size)
WORKLOADS = {
    "784-1024x3-1, b=128": ((784, 1024, 1024, 1024, 1), 128),
    "64-256x3-1, b=64": ((64, 256, 256, 256, 1), 64),
    "784-512x2-10, b=64": ((784, 512, 512, 10), 64),
}


def workload(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A ReLU network, inputs and targets, always the same for the same name."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    widths, batch = WORKLOADS[name]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), torch.randn(batch, widths[0]), torch.randn(batch, widths[-1])
