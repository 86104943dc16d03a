"""The rules: one file per family of layers, each turning uses of parameters into blocks of the Jacobian."""

from . import linear
from .base import Block, Edges, Layout, Rows, Use, is_leaf

__all__ = ["RECOGNISERS", "Block", "Edges", "Layout", "Rows", "Use", "is_leaf"]

# Autograd node -> the function that recognises a use of parameters in it, or returns None.
RECOGNISERS = {
    "AddmmBackward0": linear.recognise_addmm,
    "MmBackward0": linear.recognise_mm,
}
