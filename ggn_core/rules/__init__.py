"""The rules: one file per family of layers, each turning uses of parameters into rows of the Jacobian."""

from collections.abc import Callable

from torch.autograd.graph import Node

from . import batched_products, convolution, copies, elementwise, embedding, group_norm, linear
from .base import Block, Edges, Layout, Parameters, Rows, Use, is_leaf

__all__ = ["RECOGNISERS", "Block", "Edges", "Layout", "Parameters", "Rows", "Use", "is_leaf"]

# Autograd node -> the function that recognises a use of parameters in it, or returns None.
RECOGNISERS: dict[str, Callable[[Node, Edges, Parameters], Use | None]] = {
    **linear.RECOGNISERS,
    **batched_products.RECOGNISERS,
    **convolution.RECOGNISERS,
    **elementwise.RECOGNISERS,
    **copies.RECOGNISERS,
    **group_norm.RECOGNISERS,
    **embedding.RECOGNISERS,
}
