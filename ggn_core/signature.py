"""What must stay the same from one step to the next for a proof about a graph (see rowwise.py) to carry over."""

from torch.autograd.graph import Node

__all__ = ["discrete_arguments"]

_attributes: dict[type[Node], tuple[str, ...]] = {}


def discrete_arguments(node: Node) -> tuple[object, ...]:
    """The node's sizes, dimensions, flags and indices. Tensors and floating-point arguments are values: left out."""
    kind = type(node)
    attributes = _attributes.get(kind)
    if attributes is None:
        # A saved tensor also has a raw form; everything else was saved as a plain argument.
        names = (name for name in dir(kind) if name.startswith("_saved_") and not hasattr(kind, f"_raw{name}"))
        attributes = _attributes[kind] = tuple(names)
    if not attributes:
        return ()
    values = (getattr(node, name) for name in attributes)
    return tuple(tuple(v) if isinstance(v, list) else v for v in values if not isinstance(v, float))
