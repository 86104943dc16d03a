"""What a rule offers: how it recognises a use of a parameter, and the Jacobian rows that come of it."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

__all__ = [
    "HALF", "RESHAPING", "WHOLE", "Block", "Edge", "Edges", "Layout", "Parameters", "Plan", "Rows", "Seen",
    "SideBySide", "Use", "as_real", "cut", "from_front", "in_shape_of", "is_leaf", "layer_input", "leaf",
    "output_bytes", "output_shape", "present", "saved", "summed", "widened",
]  # fmt: skip

WHOLE = slice(None)  # of a parameter's leading dimension
HALF = frozenset({torch.float16, torch.bfloat16})

# Nodes whose output has the input's entries in their row-major order.
RESHAPING = frozenset(
    f"{name}Backward{number}"
    for name in ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Alias")
    for number in (0, 1, 2)
)

# A node's input: the node that it is an output of, and which output. A node's inputs, as Node.next_functions has them.
Edge = tuple[Node | None, int]
Edges = tuple[Edge, ...]


def is_leaf(node: Node) -> bool:
    """Whether ``node`` is where a leaf tensor enters the graph."""
    return node.name() == "torch::autograd::AccumulateGrad"


class Parameters:
    """The parameters whose uses are looked for.

    Args:
        parameters: All of them.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self._all = frozenset(parameters)

    def __contains__(self, tensor: object) -> bool:
        return tensor in self._all

    def standing_for(self, edge: Edge) -> Tensor | None:
        """What plays a parameter there though it is the output of an operation: here nothing, see derived.py."""
        return None

    def share_memory_with(self, tensor: Tensor) -> bool:
        """Whether changing a parameter in place may change ``tensor``."""
        return tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() in self._storages

    @cached_property
    def _storages(self) -> frozenset[int]:
        # Sparse and other exotic tensors have no plain storage, and share none.
        return frozenset(p.untyped_storage().data_ptr() for p in self._all if p.layout == torch.strided)


def as_real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, in a last dimension more; the Gram matrix takes them for two parameters.

    Of a complex parameter a + ib, autograd's gradient is ∂f/∂a + i ∂f/∂b.
    """
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def in_shape_of(parameter: Tensor, entries: Tensor) -> Tensor:
    """Real entries, in the order of ``as_real(parameter)``, as a tensor like the parameter."""
    if not parameter.is_complex():
        return entries.view(parameter.shape)
    return torch.complex(*entries.view(*parameter.shape, 2).unbind(-1))


def leaf(edge: Edge, parameters: Parameters) -> Tensor | None:
    """The parameter that enters the graph at an edge, if it is one of ``parameters``; it may be cast there."""
    node, _ = edge
    if node is None:
        return None
    if is_leaf(node):
        variable: Tensor = node.variable  # type: ignore[attr-defined]
        return variable if variable in parameters else None
    if node.name() == "ToCopyBackward0" and (cast := _cast(node, leaf(node.next_functions[0], parameters))) is not None:
        return cast
    return parameters.standing_for(edge)


def _cast(node: Node, parameter: Tensor | None) -> Tensor | None:
    """The parameter, if its copy there is in half precision, itself not, both on one device: autocast makes such."""
    copy = node._input_metadata[0]
    if parameter is None or parameter.dtype in HALF or parameter.device != copy.device:
        return None
    return parameter if copy.dtype in HALF else None


def saved(node: Node, name: str) -> Any:
    """What autograd saved in a node for the backward pass: a tensor, or a plain argument."""
    return getattr(node, f"_saved_{name}")


def from_front(index: int, size: int) -> int:
    """A saved dimension or index, counted from the first; some negative ones are stored as unsigned numbers."""
    index = index - 2**64 if index >= 2**63 else index
    return index + size if index < 0 else index


def summed(tensors: Sequence[Tensor]) -> Tensor:
    """Of one tensor at least."""
    return sum(tensors[1:], start=tensors[0])


def widened(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What meets in the Jacobian rows of a parameter: from half precision, as under autocast, to the parameter's."""
    return tensor.to(torch.promote_types(tensor.dtype, parameter.dtype)) if tensor.dtype in HALF else tensor


def layer_input(activation: Tensor, weight: Tensor, parameters: Parameters) -> Tensor:
    """A layer's input as the rows of its weight need it: of its precision, and safe from the update.

    Where a parameter is the layer's input, the update must not change it underway.
    """
    activation = widened(activation, weight)
    return activation.clone() if parameters.share_memory_with(activation) else activation


def present(weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Those that there are. Written out, for every step asks it of every layer."""
    if weight is bias:
        return () if weight is None else (weight,)
    if bias is None:
        return (weight,)  # type: ignore[return-value]
    return (bias,) if weight is None else (weight, bias)


def output_shape(node: Node) -> tuple[int, ...]:
    """The shape of the node's first output."""
    return tuple(node._input_metadata[0].shape)


def output_bytes(node: Node, number: int) -> int:
    """Of one of the node's outputs."""
    output = node._input_metadata[number]
    entries: int = math.prod(output.shape)
    return entries * int(output.dtype.itemsize)


def cut(rows: Tensor, part: slice) -> Tensor:
    """Of a parameter's rows (o, n, *shape), those of a part of its leading dimension."""
    return rows if part == WHOLE else rows[:, :, part]


@dataclass(frozen=True)
class Rows:
    """The shape of the residuals. Inside the core, rows run output-major: row = k * n + i for output k of sample i.

    Attributes:
        samples: Number of samples n, the leading dimension of the residuals.
        outputs: Residuals of each sample, o.
    """

    samples: int
    outputs: int

    @property
    def total(self) -> int:
        return self.samples * self.outputs

    def output_major(self, v: Tensor) -> Tensor:
        """One entry a residual, from the residuals' own order to that of the rows: (n·o,) -> (o·n,)."""
        return v if self.outputs == 1 else v.view(self.samples, self.outputs).T.reshape(-1)

    def sample_major(self, v: Tensor) -> Tensor:
        """Back again: (o·n,) -> (n·o,)."""
        return v if self.outputs == 1 else v.view(self.outputs, self.samples).T.reshape(-1)


@dataclass(frozen=True)
class Layout:
    """Where the samples are in a tensor: one dimension of it holds ``samples * positions`` entries.

    Attributes:
        samples: Number of samples n.
        positions: Entries of each sample, T: 1 for a plain batch, more for sequences folded into the batch.
        sample_major: Entries run as (n, T) if true, as (T, n) if false.
        axis: The dimension; None if the tensor belongs to a single sample whole.
    """

    samples: int
    positions: int = 1
    sample_major: bool = True
    axis: int | None = 0

    def split(self, tensor: Tensor) -> Tensor:
        """Brings the samples to the front: (k, *shape) -> (k, n, T, *shape without the axis), a view."""
        if self.axis is None:
            return tensor.unsqueeze(1).unsqueeze(1)
        front = tensor.movedim(1 + self.axis, 1) if self.axis else tensor
        if self.positions == 1:
            return front.unsqueeze(2)
        if self.sample_major:
            return torch.unflatten(front, 1, (self.samples, self.positions))
        return torch.unflatten(front, 1, (self.positions, self.samples)).transpose(1, 2)

    @classmethod
    def along(cls, axis: int, size: int, samples: int) -> "tuple[Layout, ...]":
        """Every layout of ``samples`` along a dimension of this size."""
        if size % samples:
            return ()
        positions = size // samples
        return tuple(cls(samples, positions, major, axis) for major in ((True, False) if positions > 1 else (True,)))


class Use(Protocol):
    """One use of one or more parameters by one node of the autograd graph."""

    @property
    def edge(self) -> GradientEdge:
        """The node's output z; the gradient that flows into it is the cotangent the rule needs."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters this use reads, each once."""

    @property
    def handled(self) -> tuple[int, ...]:
        """The positions of the node's inputs that this use accounts for."""

    def layouts(self, samples: int) -> Sequence[Layout]:
        """Every layout of z that this use can work with."""

    def without(self, parameters: Container[Tensor]) -> "Use | None":
        """The same use, blind to some of its parameters; None if nothing is left of it."""

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        """The parameter's Jacobian rows through this use.

        Args:
            parameter: One of ``parameters``.
            cotangent: ∂(output k, summed over samples)/∂z for every k: (o, *z.shape).
            layout: Of z.
            part: Of the parameter's leading dimension, the columns that are wanted; ``WHOLE`` if it has none.

        Returns:
            (o, n, *parameter.shape), the leading dimension cut to ``part``.
        """


# A use with its cotangent (o, *z.shape) and the layout of z.
Seen = tuple[Use, Tensor, Layout]


@dataclass(frozen=True)
class Plan:
    """How a block adds some parameters' share of the Gram matrix; for ``explain``.

    Attributes:
        parameters: Whose.
        rule: A few words.
        why: The reason for this way rather than another.
        flops: Of the Gram products, a multiply-add counted as two, over the lower triangle.
        memory: Bytes kept for the update.
    """

    parameters: tuple[Tensor, ...]
    rule: str
    why: str
    flops: int
    memory: int


class Block(Protocol):
    """The columns of the Jacobian that belong to a few parameters, kept in a form that need not be dense."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters."""

    def plans(self) -> Sequence[Plan]:
        """What ``add_gram_`` does, part by part."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters, and of what it takes and gives."""

    def add_gram_(self, gram: Tensor) -> None:
        """Adds J Jᵀ to ``gram`` (o n, o n), rows output-major: to its lower triangle, what is above is not read."""

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        """Adds ``alpha`` Jᵀ v to the parameters in place, for ``v`` of shape (o, n)."""

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each parameter with its part of Jᵀ v."""

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        """The rows of one of its parameters, (o, n, *shape), the leading dimension cut to ``part``."""

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        """J u, of shape (o, n), for a direction u that holds a tensor of each parameter's shape."""


OneBlock = TypeVar("OneBlock", bound=Block)


class SideBySide(Generic[OneBlock]):
    """A block made of others that have columns of their own: J Jᵀ is the sum of theirs.

    Args:
        blocks: Of one dtype.
    """

    def __init__(self, blocks: Sequence[OneBlock]):
        self._blocks = blocks

    @property
    def dtype(self) -> torch.dtype:
        return self._blocks[0].dtype

    def add_gram_(self, gram: Tensor) -> None:
        for block in self._blocks:
            block.add_gram_(gram)
