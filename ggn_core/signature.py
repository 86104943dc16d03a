"""What must stay the same from one step to the next for a proof about a graph (see rowwise.py) to carry over."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from torch.autograd.graph import Node

__all__ = ["discrete_arguments"]

_getters: dict[type[Node], Callable[[Node], tuple[Any, ...]]] = {}


def discrete_arguments(node: Node) -> tuple[object, ...]:
    """The node's sizes, dimensions, flags and indices. Tensors and floating-point arguments are values: left out."""
    kind = type(node)
    arguments = _getters.get(kind) or _getters.setdefault(kind, _getter(kind))
    return tuple([tuple(v) if type(v) is list else v for v in arguments(node) if type(v) is not float])


def _getter(kind: type[Node]) -> Callable[[Node], tuple[Any, ...]]:
    # A saved tensor also has a raw form; everything else was saved as a plain argument.
    names = [name for name in dir(kind) if name.startswith("_saved_") and not hasattr(kind, f"_raw{name}")]
    if not names:
        return lambda node: ()
    if len(names) == 1:
        return lambda node: (getattr(node, names[0]),)
    return attrgetter(*names)  # for several names, a tuple
