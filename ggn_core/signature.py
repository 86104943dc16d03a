"""What must stay the same from one step to the next for a proof about a graph (see rowwise.py) to carry over."""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

from torch.autograd.graph import Node

__all__ = ["discrete_arguments"]


def discrete_arguments(node: Node) -> tuple[object, ...]:
    """The node's sizes, dimensions, flags and indices. Tensors and floating-point arguments are values: left out."""
    arguments = _getter(type(node))(node)
    return tuple([tuple(v) if type(v) is list else v for v in arguments if type(v) is not float])


@cache
def _getter(kind: type[Node]) -> Callable[[Node], tuple[Any, ...]]:
    # A saved tensor also has a raw form; everything else was saved as a plain argument.
    names = [name for name in dir(kind) if name.startswith("_saved_") and not hasattr(kind, f"_raw{name}")]
    if not names:
        return lambda node: ()
    if len(names) == 1:
        return lambda node: (getattr(node, names[0]),)
    return attrgetter(*names)  # for several names, a tuple
