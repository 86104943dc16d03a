"""Networks that a suite can ask for."""

from itertools import pairwise

import torch
from torch import nn

__all__ = ["ACTIVATIONS", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus, "gelu": nn.GELU}


def mlp(inputs: int, width: int, depth: int, outputs: int, activation: str, seed: int) -> nn.Sequential:
    """A multilayer perceptron with ``depth`` hidden layers of ``width`` units, in torch's default initialization.

    The weights depend on ``seed`` alone; the global random state is left as it was.
    """
    sizes = [inputs] + [width] * depth
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        layers.append(nn.Linear(sizes[-1], outputs))
    return nn.Sequential(*layers)
