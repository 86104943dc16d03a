"""The fewest multiply-adds that a step can do with, over those of SGD's: what measured ratios are held against."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .networks import Workload

__all__ = ["least", "multiply_adds"]


@dataclass(frozen=True)
class Layer:
    """One layer's part.

    Attributes:
        forward: Multiply-adds of a sample's forward pass; as many again for its input's gradient, and for its weights'.
        entries: Its parameters.
        outputs: Of a linear layer, its outputs; None of others, whose Jacobian has explicit rows.
        inputs: Of a linear layer, its inputs.
    """

    forward: int
    entries: int
    outputs: int | None = None
    inputs: int = 0


def least(workload: Workload) -> float:
    """Those of GGN's step over those of SGD's."""
    ggn, sgd = multiply_adds(workload)
    return ggn / sgd


def multiply_adds(workload: Workload) -> tuple[float, float]:
    """Those of a step of GGN and of one of SGD, with n samples of o outputs and N = n o rows.

    GGN's step has the forward pass; o passes to the layers' outputs; of a linear layer, half of its two Grams, of the
    cotangents N × N and of the inputs n × n, and one weight gradient for the update; of any other layer, o weight
    gradients, half of the Gram of N rows, and their product with the solution; N³/6 for the factor. SGD's has the
    forward pass, one pass to the layers' outputs and one weight gradient. The network's input needs no gradient. Layers
    that multiply nothing, such as normalizations, count with the Gram and the update of their parameters alone.
    """
    layers = _layers(workload)
    samples, rows = workload.inputs[0], workload.inputs[0] * workload.outputs
    forward = sum(layer.forward for layer in layers)
    inner = forward - next(layer.forward for layer in layers if layer.forward)
    sgd = samples * (forward + inner + forward)
    own = sum(_own(layer, samples, rows) for layer in layers)
    return samples * forward + rows * inner + own + rows**3 / 6, sgd


def _own(layer: Layer, samples: int, rows: int) -> float:
    """What a layer adds to the passes: rows, Gram, update."""
    if layer.outputs is not None:
        return (rows**2 * layer.outputs + samples**2 * layer.inputs) / 2 + samples * layer.forward
    return rows * layer.forward + rows**2 * layer.entries / 2 + rows * layer.entries


def _layers(workload: Workload) -> list[Layer]:
    """In the order of the forward pass, which is run on shapes alone."""
    network, layers = workload.network().to("meta"), []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        entries = sum(p.numel() for p in module.parameters(recurse=False))
        if isinstance(module, nn.Linear):
            layers.append(Layer(module.weight.numel(), entries, module.out_features, module.in_features))
        elif isinstance(module, nn.Conv2d):
            layers.append(Layer(module.weight.numel() * math.prod(output.shape[2:]), entries))
        elif entries:
            layers.append(Layer(0, entries))

    for module in network.modules():
        module.register_forward_hook(note)
    network(torch.empty(workload.inputs, device="meta"))
    return layers
