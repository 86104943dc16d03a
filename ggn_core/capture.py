"""Reads from the autograd graph of the residuals how every parameter was used.

The graph is the complete record of what the forward pass computed: each use of a parameter is an edge
that ends in the parameter's ``AccumulateGrad`` node. Walking it, instead of hooking modules, sees
weights that are tied, used twice, or used outside the module that owns them, and cannot miss one.
A use that a rule recognises carries all that its Jacobian needs (the layer's input is saved in the
node); a parameter with any other use is left to the generic rule. Nothing is approximated.

Source for the node attributes: https://docs.pytorch.org/docs/stable/notes/autograd.html#saved-tensors
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.autograd.graph import Node

from .errors import CompiledError, ResidualsError, UnsupportedError
from .rules import RECOGNISERS, Parameters, Use, is_leaf
from .rules.base import output_shape, saved
from .signature import discrete_arguments

__all__ = ["Trace", "listed", "named_trainable", "something_to_train", "trace"]


def _reentrant_checkpoint(node: Node) -> str | None:
    return (
        "reentrant activation checkpointing hides the parameters it uses from the autograd graph; "
        "pass use_reentrant=False to torch.utils.checkpoint.checkpoint"
    )


def _compiled(node: Node) -> str | None:
    raise CompiledError(
        "a function that torch.compile has compiled is a single node of the graph, which does not tell how it uses its "
        "parameters; compute the residuals within torch.compiler.set_stance('force_eager')"
    )


def _synchronized(node: Node) -> str | None:
    return (
        "synchronized batch normalization mixes the samples of all processes, so a residual of one sample does not "
        "exist; call model.eval(), or normalize by GroupNorm or LayerNorm"
    )


def _batch_norm(node: Node) -> str | None:
    # Instance normalization runs the same kernel on a batch of one, (1, n·c, ...), and mixes no samples.
    if saved(node, "training") and saved(node, "input").shape[0] > 1:
        return (
            "batch normalization in training mode mixes the samples of a batch, so a residual of one sample does not "
            "exist; call model.eval(), or normalize by GroupNorm or LayerNorm, or let GGN take the batch as a whole: "
            "solver='cg'"
        )
    return None


Refusals = dict[str, Callable[[Node], str | None]]

# Nodes that may stand for something without an exact treatment -> the reason and the way out, or None.
HIDING: Refusals = {
    "CheckpointFunctionBackward": _reentrant_checkpoint,
    "CompiledFunctionBackward": _compiled,
    "SyncBatchNormBackward": _synchronized,
}
MIXING: Refusals = dict.fromkeys(
    ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0"), _batch_norm
)


# Nodes whose backward pass torch 2.13 vectorises wrongly.
WRONG_UNDER_VMAP = frozenset({"CdistBackward0", "EuclideanDistBackward0"})


@dataclass(eq=False)
class Trace:
    """How the parameters enter the residuals.

    Attributes:
        uses: The recognised uses, in the order of the walk.
        generic: Parameters with at least one use that no rule recognises (none of their uses is in ``uses``), each with
            the reason.
        signature: The nodes met, in order, with their wiring, sizes, dimensions and other discrete arguments. Equal
            signatures mean the same operations on the same shapes, put together in the same way.
        vectorisable: Whether torch.func.vmap can be trusted with every node.
    """

    uses: list[Use] = field(default_factory=list)
    generic: dict[Tensor, str] = field(default_factory=dict)
    signature: tuple[object, ...] = ()
    vectorisable: bool = True


def trace(residuals: Tensor, parameters: dict[Tensor, str], *, by_sample: bool = True) -> Trace:
    """Walks the autograd graph of ``residuals`` and collects the uses of ``parameters``.

    Args:
        residuals: Any tensor with a ``grad_fn``.
        parameters: The parameters of interest, each with its name for error messages. Other leaves are ignored.
        by_sample: Whether layers that are known to mix the samples are refused.

    Raises:
        UnsupportedError: A parameter does not appear in the graph, or a node may hide uses of parameters.
    """
    uses: list[Use] = []
    signature: list[object] = []
    generic: dict[Tensor, str] = {}
    unseen = dict(parameters)
    vectorisable = True
    refusals = HIDING | MIXING if by_sample else HIDING
    root = residuals.grad_fn
    assert root is not None
    for parameter, name in parameters.items():
        if parameter._backward_hooks:
            raise UnsupportedError(
                f"the parameter '{name}' has a gradient hook, which a Jacobian cannot honour; remove it"
            )
    known = Parameters(parameters)
    stack: list[Node] = [root]
    visited: dict[Node, int] = {root: 0}  # with the order of the first visit, which names a node in the signature
    while stack:
        node = stack.pop()
        name = node.name()
        signature.append(name)
        signature.extend(discrete_arguments(node))
        vectorisable = vectorisable and name not in WRONG_UNDER_VMAP
        if name in refusals and (reason := refusals[name](node)) is not None:
            raise UnsupportedError(f"{name} in the graph of the residuals: {reason}")
        edges = node.next_functions
        handled: tuple[int, ...] = ()
        recognise = RECOGNISERS.get(name)
        use = recognise(node, edges, known) if recognise is not None else None
        if use is not None:
            uses.append(use)
            for parameter in use.parameters:
                signature.append(id(parameter))
                unseen.pop(parameter, None)
            handled = use.handled
            # What views show of a parameter is as good as its shape, and they are not walked.
            signature += [output_shape(edges[at][0]) for at in handled]  # type: ignore[arg-type]
        for position, (child, number) in enumerate(edges):
            if child is None or position in handled:
                continue
            signature.append(number)
            if is_leaf(child):
                variable: Tensor = child.variable  # type: ignore[attr-defined]
                if variable in parameters:
                    unseen.pop(variable, None)
                    generic[variable] = f"no rule for its use by {name}"
                continue
            if child not in visited:
                visited[child] = len(visited)
                stack.append(child)
            signature.append(visited[child])

    if unseen:
        raise UnsupportedError(
            f"the residuals do not depend on the trainable parameter{'s' if len(unseen) > 1 else ''} "
            f"{listed(unseen.values())}: unused in this forward pass, or hidden by a custom autograd.Function; "
            "freeze what is unused with requires_grad_(False)"
        )
    # A parameter's Jacobian is the sum over its uses: one use that no rule serves sends them all to the generic rule.
    if generic:
        uses = [kept for use in uses if (kept := use.without(generic)) is not None]
    return Trace(uses, generic, tuple(signature), vectorisable)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """The first few names, in quotes, and how many more there are."""
    names = [f"'{name}'" for name in names]
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def named_trainable(module: nn.Module) -> dict[Tensor, str]:
    """The trainable parameters of ``module``, each once, with the first name it goes by."""
    return {p: name for name, p in module.named_parameters() if p.requires_grad}


def something_to_train(module: nn.Module) -> dict[Tensor, str]:
    """``named_trainable``, where an empty answer is an error.

    Raises:
        ResidualsError: The module has no trainable parameters.
    """
    parameters = named_trainable(module)
    if not parameters:
        raise ResidualsError(f"{type(module).__name__} has no trainable parameters, so no Gram matrix")
    return parameters
