"""Networks that a suite can ask for."""

import inspect
from itertools import pairwise

import torch
from torch import nn

from ..errors import UserError
from ..plugins import EXPECTED, MODELS, OwnCode, load

__all__ = ["ACTIVATIONS", "cnn", "mlp", "own_model"]

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


def own_model(config: OwnCode, shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """A model of the user's own.

    The global random state is seeded for it and left as it was; a function with a parameter ``seed``, ``generator`` or
    ``shape``, that of one sample's inputs, is given that as well.

    Raises:
        UserError: The code cannot be found, has changed, or makes no module with parameters to train.
    """
    function = load(config.plugin)
    offered = {"seed": seed, "generator": torch.Generator().manual_seed(seed), "shape": shape}
    asked = {name: offered[name] for name in inspect.signature(function).parameters if name in offered}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = function(inputs=shape[0], outputs=outputs, **asked, **config.settings)
    if not isinstance(model, nn.Module):
        raise UserError(f"'{config.name}': made a {type(model).__name__}; {EXPECTED[MODELS]}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"'{config.name}': the model has no parameters to train")
    return model


def cnn(shape: tuple[int, ...], width: int, depth: int, outputs: int, activation: str, seed: int) -> nn.Sequential:
    """A convolutional network for small images, in torch's default initialization.

    ``depth`` convolutions of 3 × 3, the first with ``width`` channels and stride 1, the others with twice as many and
    stride 2; then a linear layer on what is left. There is no batch normalization: it would couple the samples.

    The weights depend on ``seed`` alone; the global random state is left as it was.

    Args:
        shape: Of an image, (c, h, w).
        width: Channels of the first convolution.
        depth: Convolutions.
        outputs: Values a sample.
        activation: By name.
        seed: Of the weights.
    """
    channels, *sides = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for layer in range(depth):
            wide, stride = (width, 1) if layer == 0 else (2 * width, 2)
            layers += [nn.Conv2d(channels, wide, 3, stride=stride, padding=1), ACTIVATIONS[activation]()]
            channels, sides = wide, [(side - 1) // stride + 1 for side in sides]
        layers += [nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], outputs)]
    return nn.Sequential(*layers)
