"""Which network a problem has."""

from torch import nn

from .configs import ProblemConfig, RotatedDigits, TwoLayer
from .image_configs import ImageConfig
from .models import cnn, mlp, own_model
from .resnets import resnet
from .two_layer import TwoLayerNetwork

__all__ = ["network"]


def network(config: ProblemConfig, shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """The problem's network, or the user's own model, with initial weights that depend on ``seed`` alone.

    Args:
        config: The problem.
        shape: Of one sample's inputs: (d,), or (c, h, w).
        outputs: Values a sample.
        seed: Of the initial weights.
    """
    if config.model is not None:
        return own_model(config.model, shape, outputs, seed)
    match config:
        case TwoLayer():
            return TwoLayerNetwork(shape[0], config.width, config.activation, seed)
        case RotatedDigits() | ImageConfig(network="cnn"):
            return cnn(shape, config.width, config.depth, outputs, config.activation, seed)
        case ImageConfig():
            kind = config.network.removeprefix("resnet_")
            return resnet(kind, shape[0], config.width, config.depth, outputs, seed, config.zero_head)
        case _:
            return mlp(shape[0], config.width, config.depth, outputs, config.activation, seed)
