"""Many cotangents through one autograd graph in a single, vectorised backward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

__all__ = ["backward_passes"]


def backward_passes(
    outputs: Tensor | GradientEdge,
    inputs: Sequence[Tensor] | Sequence[GradientEdge],
    cotangents: Tensor,
    vectorise: bool = True,
) -> tuple[Tensor, ...]:
    """The gradients of ``outputs`` with respect to ``inputs``, for each of several cotangents; the graph is kept.

    Only what lies between the inputs and the outputs is computed: with the outputs of layers as inputs, no weight
    gradient is.

    Args:
        outputs: A tensor of any shape, or the edge of the graph that stands for it.
        inputs: Tensors, or edges of the graph, that the outputs depend on.
        cotangents: (k, *outputs.shape).
        vectorise: Whether torch.func.vmap may be used.

    Returns:
        For each input, its gradients of shape (k, *input.shape).
    """

    def backward(cotangent: Tensor) -> tuple[Tensor, ...]:
        gradients = torch.autograd.grad(outputs, inputs, cotangent, retain_graph=True, materialize_grads=True)
        return tuple(g.to_dense() if g.is_sparse else g for g in gradients)

    if cotangents.shape[0] == 1:
        return tuple(g.unsqueeze(0) for g in backward(cotangents[0].contiguous()))
    # Clones from here on: some backward functions write into the gradients they are given.
    if vectorise:
        try:
            return torch.func.vmap(backward)(cotangents.clone(memory_format=torch.contiguous_format))
        except Exception:
            # Some backward functions (custom ones, compiled ones, a few of torch's own) cannot be vectorised. One pass
            # a cotangent gives the same result; an error with another cause comes up again there.
            pass
    passes = [backward(cotangent.clone(memory_format=torch.contiguous_format)) for cotangent in cotangents]
    return tuple(torch.stack(parts) for parts in zip(*passes, strict=True))
