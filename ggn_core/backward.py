"""Cotangents through one autograd graph: many in a vectorised pass, more in portions, or one looked at on its way."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .rowwise import consumers_first
from .rules import is_leaf, recomputed
from .rules.base import WHOLE, output_bytes

__all__ = ["ROWS_AT_ONCE", "Visit", "backward_passes", "in_portions", "rows_pulled_back", "visit_on_the_way"]

# Cotangents carried through one vectorised backward pass: more use more memory, fewer leave the cores idle. They are
# fewer where one alone takes much.
ROWS_AT_ONCE = 64

# Takes the cotangents (k, *z.shape) of a tensor z.
Visit = Callable[[Tensor], None]


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
        gradients = torch.autograd.grad(outputs, inputs, cotangent, retain_graph=True, allow_unused=True)
        found = zip(gradients, inputs, strict=True)  # none where an operation on the way has no gradient
        return tuple(_zeros(at) if g is None else g.to_dense() if g.is_sparse else g for g, at in found)

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


def in_portions(
    outputs: Tensor | GradientEdge,
    inputs: Sequence[Tensor],
    cotangents: Tensor,
    vectorise: bool,
    part: slice = WHOLE,
) -> tuple[Tensor, ...]:
    """The same for any number of cotangents, some at a time, and for a part of the inputs' leading dimension."""
    largest = max(1, sum(at.nbytes for at in inputs), _largest_bytes(outputs))
    portions = []
    for portion in torch.split(cotangents, max(1, min(recomputed.BYTES_AT_ONCE // largest, ROWS_AT_ONCE))):
        gradients = backward_passes(outputs, inputs, portion, vectorise)
        portions.append([g if part == WHOLE else g[:, part] for g in gradients])
    return tuple(parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*portions, strict=True))


def rows_pulled_back(
    output: GradientEdge, parameters: Sequence[Tensor], rows: Tensor, vectorise: bool, part: slice = WHOLE
) -> list[Tensor]:
    """The rows of parameters by way of a tensor w that is computed from them.

    Args:
        output: Where the graph computes w.
        parameters: Below it.
        rows: Of w, (o, n, *w.shape).
        vectorise: Whether torch.func.vmap may be used.
        part: Of the parameters' leading dimension.

    Returns:
        For each, (o, n, *shape), the leading dimension cut to ``part``.
    """
    columns = in_portions(output, parameters, rows.flatten(0, 1), vectorise, part)
    return [torch.unflatten(column, 0, rows.shape[:2]) for column in columns]


def _largest_bytes(outputs: Tensor | GradientEdge) -> int:
    """Of a gradient on the way, for one cotangent."""
    root = outputs.grad_fn if isinstance(outputs, Tensor) else outputs.node
    assert root is not None
    nodes = consumers_first(root)
    return max(output_bytes(node, number) for node in nodes for number in range(len(node._input_metadata)))


def visit_on_the_way(residuals: Tensor, visits: Sequence[tuple[GradientEdge, Visit]]) -> None:
    """One backward pass with a cotangent of ones, each visit paid when the pass is there: no cotangent outlives it.

    Args:
        residuals: On a CPU, where the pass runs in this thread; the graph is kept.
        visits: The outputs of nodes whose cotangents are wanted, and what takes them, as (1, *z.shape).
    """
    above = _above(residuals.grad_fn, {edge.node for edge, _ in visits})
    hooks = [
        edge.node.register_prehook(partial(_pay, edge, visit))  # called for every node on the pass's way
        for edge, visit in visits
        if edge.node in above
    ]
    # The pass goes only where it has to: to the last of them, whose cotangents it returns in the end.
    last = [(edge, visit) for edge, visit in visits if edge.node not in above]
    try:
        cotangents = backward_passes(residuals, [edge for edge, _ in last], torch.ones_like(residuals).unsqueeze(0))
    finally:
        for hook in hooks:
            hook.remove()
    for (_, visit), cotangent in zip(last, cotangents, strict=True):
        visit(cotangent)


def _pay(edge: GradientEdge, visit: Visit, cotangents: Sequence[Tensor | None]) -> None:
    cotangent = cotangents[edge.output_nr]
    visit((_zeros(edge) if cotangent is None else cotangent).unsqueeze(0))


def _zeros(at: Tensor | GradientEdge) -> Tensor:
    """A gradient of zeros."""
    like = at if isinstance(at, Tensor) else at.node._input_metadata[at.output_nr]
    return torch.zeros(tuple(like.shape), dtype=like.dtype, device=like.device)


def _above(root: Node | None, nodes: Collection[Node]) -> set[Node]:
    """Those of the nodes that have others of them below."""
    assert root is not None
    leading: set[Node] = set()  # to one of the nodes, by way of an input
    for node in reversed(consumers_first(root)):
        inputs = (child for child, _ in node.next_functions if child is not None and not is_leaf(child))
        if any(child in nodes or child in leading for child in inputs):
            leading.add(node)
    return leading.intersection(nodes)
