"""What must stay the same from one step to the next for a certificate (see layout.py) to hold.

A certificate is a fact about a computation: the rows of a layer belong to one sample each. It carries over to a later
step if that step performs the same operations with the same discrete arguments (sizes, dimensions, indices), whatever
the values of its tensors, unless the values themselves decide where a row goes.
"""

from torch.autograd.graph import Node

__all__ = ["discrete_arguments", "is_routed"]

# Nodes that move rows to places given by an index tensor or a mask.
ROUTING = frozenset(
    f"{name}Backward0"
    for name in (
        "Index", "IndexSelect", "IndexAdd", "IndexCopy", "IndexPut", "Gather", "Scatter", "ScatterAdd", "ScatterReduce",
        "Take", "TakeAlongDim", "MaskedSelect", "MaskedScatter", "Sort", "Topk", "Kthvalue", "Unique",
    )
)  # fmt: skip

# Matrix products -> the position of their right factor.
PRODUCTS = {
    "MmBackward0": 1,
    "MvBackward0": 1,
    "BmmBackward0": 1,
    "AddmmBackward0": 2,
    "AddmvBackward0": 2,
    "BaddbmmBackward0": 2,
    "SparseAddmmBackward0": 2,
}

_attributes: dict[type[Node], tuple[str, ...]] = {}


def discrete_arguments(node: Node) -> tuple[object, ...]:
    """The node's sizes, dimensions, flags and indices. Tensors and floating-point arguments are values: left out."""
    kind = type(node)
    attributes = _attributes.get(kind)
    if attributes is None:
        # A saved tensor also has a raw form; everything else was saved as a plain argument.
        saved = (name for name in dir(kind) if name.startswith("_saved_") and not hasattr(kind, f"_raw{name}"))
        attributes = _attributes[kind] = tuple(saved)
    values = (getattr(node, name) for name in attributes)
    return tuple(tuple(v) if isinstance(v, list) else v for v in values if not isinstance(v, float))


def is_routed(node: Node, samples: int, has_use: bool) -> bool:
    """Whether the values of tensors may decide which sample a row of the node's output belongs to.

    Args:
        node: Any node.
        samples: Number of samples n.
        has_use: Whether a rule recognises a parameter as a factor of the node.
    """
    name = node.name()
    if name in ROUTING or not name[-1].isdigit():
        return True  # torch's own operations are numbered; what a custom function does is unknown
    if name not in PRODUCTS or has_use:
        return False
    # A product A @ h with data A mixes the rows of h as A says. A batch of products, one or more a sample, does not.
    shape = node._input_metadata[0].shape
    batched_by_sample = len(shape) == 3 and shape[0] % samples == 0
    return node.next_functions[PRODUCTS[name]][0] is not None and not batched_by_sample
