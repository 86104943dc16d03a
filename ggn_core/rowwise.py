"""Proves, from the autograd graph alone, that samples stay apart: then no numerical test is needed, now or later.

The claim about a tensor is a *place*: numbers (outer, inner) such that the entry at the flat, row-major position f acts
on the residuals of sample (f // inner) mod n only. It holds for the residuals by definition, and passes from a node's
output to an input if the node's operation lets it, whatever the values of its tensors:

- reshaping keeps row-major positions, and so the place;
- other operations, listed here with their conditions, treat the entries along some dimension of the output alike and
  apart, and have a dimension of the input to match. If the samples are in such a dimension, they are in its match.

For everything else the claim is simply not made, and the layouts are tested at every step instead (see layout.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch.autograd.graph import Node

from .rules import Layout, is_leaf
from .rules.base import RESHAPING, Edge, from_front, saved

__all__ = ["Place", "consumers_first", "places"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where the samples are in a tensor, taken as (outer, samples, inner) in row-major order."""

    outer: int
    inner: int

    def layout(self, shape: Shape, samples: int) -> Layout | None:
        """The same as a layout of one dimension, if that holds the samples with positions on one side only."""
        found = self._axis(shape, samples)
        if found is None:
            return None
        axis, before, after = found
        if before > 1 < after:
            return None
        return Layout(samples, before * after, before == 1, axis)

    def moved(self, shape: Shape, samples: int, move: Callable[[int], int | None], to: Shape) -> "Place | None":
        """The place in another tensor, if the dimension that holds the samples has a match there.

        Args:
            shape: Of this tensor.
            samples: Number of samples n.
            move: The dimension of the other tensor that matches one of this.
            to: The other's shape.
        """
        found = self._axis(shape, samples)
        if found is None:
            return None
        axis, before, after = found
        match = move(axis)
        if match is None or not 0 <= match < len(to) or to[match] != shape[axis]:
            return None
        return Place(math.prod(to[:match]) * before, after * math.prod(to[match + 1 :]))

    def _axis(self, shape: Shape, samples: int) -> tuple[int, int, int] | None:
        """The dimension that holds the samples, and what it holds besides: it counts (before, samples, after)."""
        if 0 in shape:  # no entries, no dimension to tell
            return None
        stride = 1
        for axis in reversed(range(len(shape))):
            end = stride * shape[axis]
            if self.inner % stride == 0 and end and end % (self.inner * samples) == 0:
                return axis, end // (self.inner * samples), self.inner // stride
            stride = end
        return None


def places(root: Node, shape: Shape, samples: int) -> dict[Edge, Place]:
    """The places of the samples in every output of a node for which there is a proof.

    Where there is none for a tensor, there is none for any that it is computed from.

    Args:
        root: The residuals' node.
        shape: The residuals' shape, samples first.
        samples: Number of samples n, at least 2.
    """
    claims: dict[Edge, Place | None] = {(root, 0): Place(1, math.prod(shape) // samples)}
    for node in consumers_first(root):
        numbers = [number for number in range(len(node._input_metadata)) if (node, number) in claims]
        outputs = {number: claims[node, number] for number in numbers}
        for position, (child, number) in enumerate(node.next_functions):
            if child is None or is_leaf(child):
                continue
            claim = _passed_on(node, outputs, position, tuple(child._input_metadata[number].shape), samples)
            # A tensor with several consumers is where all of them say it is.
            claims[child, number] = claim if claims.get((child, number), claim) == claim else None
    return {edge: place for edge, place in claims.items() if place is not None}


def _passed_on(node: Node, outputs: Mapping[int, Place | None], position: int, to: Shape, samples: int) -> Place | None:
    """The place in a node's input, if those in all of its outputs agree about it."""
    if node.name() not in SEVERAL_OUTPUTS and set(outputs) != {0}:
        return None
    found = {_through(node, number, place, position, to, samples) for number, place in outputs.items()}
    return found.pop() if len(found) == 1 else None


def _through(node: Node, number: int, place: Place | None, position: int, to: Shape, samples: int) -> Place | None:
    """The place in a node's input, as far as one of its outputs goes."""
    shape, name = tuple(node._input_metadata[number].shape), node.name()
    if place is None:
        return None
    if name in RESHAPING:
        return place if math.prod(shape) == math.prod(to) else None
    match = MATCHES.get(name)
    if match is None:
        return None
    return place.moved(shape, samples, lambda axis: match(node, axis, shape, position, to), to)


def consumers_first(root: Node) -> list[Node]:
    """All nodes but the leaves, every node after all of its consumers."""
    order: list[Node] = []
    visited: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in visited:
            continue
        visited.add(node)
        stack.append((node, True))
        stack += [(child, False) for child, _ in node.next_functions if child is not None and not is_leaf(child)]
    return order[::-1]


# (node, dimension of the output, its shape, position of the input, its shape) -> the matching dimension of the input,
# if the operation keeps entries along it apart. That both have the same size is for the caller to see.
Match = Callable[[Node, int, Shape, int, Shape], int | None]


def _aligned(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    """Entry by entry, with broadcasting: dimensions are counted from the last."""
    return axis - len(out) + len(shape)


def _leading(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    """Row by row, through the first input: convolutions, pooling, normalization by sample."""
    return 0 if position == 0 and axis == 0 else None


def _product(first: int, batch: int) -> Match:
    """Products of matrices: rows of the left one are apart, and columns of the right one.

    Args:
        first: Position of the left one among the inputs; before it, what is added.
        batch: Dimensions before those of the matrices.
    """

    def match(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
        if position < first:
            return _aligned(node, axis, out, position, shape)
        return axis if axis < batch or axis == batch + position - first else None

    return match


def _along(*names: str) -> Match:
    """Operations along some dimensions, of which the output has as many as the input."""

    def match(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
        dims = _dimensions(node, names, len(shape))
        return axis if dims and axis not in dims and len(out) == len(shape) else None

    return match


def _reducing(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    """Reductions of some dimensions, kept as ones or dropped; and selections from one, which is dropped."""
    dims = _dimensions(node, ("dim",), len(shape))
    if not dims:  # over everything
        return None
    if len(out) == len(shape):
        return axis if axis not in dims else None
    return [dim for dim in range(len(shape)) if dim not in dims][axis]


def _stack(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    (new,) = _dimensions(node, ("dim",), len(out))
    return None if axis == new else axis - (new < axis)


def _transposed(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    one, other = _dimensions(node, ("dim0", "dim1"), len(out))
    return {one: other, other: one}.get(axis, axis)


def _permuted(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    return _dimensions(node, ("dims",), len(out))[axis]


def _in_pairs(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    """Complex numbers as pairs of real ones, in a last dimension more, or these as complex numbers."""
    return axis if axis < min(len(out), len(shape)) else None


def _padded(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    """Padding is given for the last dimensions first, two numbers each."""
    pad, pair = saved(node, "pad"), len(shape) - 1 - axis
    return axis if not any(pad[2 * pair : 2 * pair + 2]) else None


def _attention(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    """Of queries, keys and values (batch, heads, length, width)."""
    return axis if position < 3 and axis < 2 and len(shape) == len(out) == 4 else None


def _layer_norm(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    return axis if position == 0 and axis < len(out) - len(saved(node, "normalized_shape")) else None


def _batch_norm(node: Node, axis: int, out: Shape, position: int, shape: Shape) -> int | None:
    """Channels are apart, and so are samples as long as the statistics are not theirs."""
    if position > 0:  # weight and bias, (c,): instance normalization has channels of their own for every sample
        return 0 if axis == 1 else None
    return axis if axis == 1 or not saved(node, "training") else None


def _dimensions(node: Node, names: Sequence[str], rank: int) -> list[int]:
    """Saved dimensions, counted from the first; none where the operation takes all."""
    dims: list[int] = []
    for name in names:
        value = saved(node, name)
        if value is None:
            return []
        dims += value if isinstance(value, Sequence) else [value]
    return [from_front(dim, rank) for dim in dims]


def _numbered(match: Match, *names: str) -> dict[str, Match]:
    return {f"{name}Backward{number}": match for name in names for number in (0, 1)}


ELEMENTWISE = (
    "Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Pow", "Exp", "Expm1", "Log", "Log1P", "Sqrt", "Rsqrt", "Reciprocal",
    "Abs", "Sin", "Cos", "Sinh", "Cosh", "Atan", "Erf", "Relu", "Tanh", "Sigmoid", "Gelu", "Silu", "Mish", "Elu",
    "Softplus", "LeakyRelu", "LogSigmoid", "Hardtanh", "Hardswish", "Hardsigmoid", "Celu", "Clamp", "ClampMin",
    "ClampMax", "Maximum", "Minimum", "Where", "MaskedFill", "Lerp", "Addcmul", "PreluKernel", "NativeDropout",
    "ToCopy", "Clone", "Expand", "Complex", "Polar", "Conj", "ConjPhysical", "Angle",
    # in the graphs of derivatives
    "TanhBackward", "SigmoidBackward", "GeluBackward", "SiluBackward", "MishBackward", "EluBackward",
    "SoftplusBackward", "ThresholdBackward", "LeakyReluBackward", "LogSigmoidBackward", "HardtanhBackward",
)  # fmt: skip
BY_SAMPLE = (
    "Convolution", "NativeGroupNorm", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AvgPool2D", "AvgPool3D",
    "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleBilinear2D",
    "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D", "PixelShuffle", "Im2Col",
)  # fmt: skip
ALONG_ONE = (
    "Softmax", "SafeSoftmax", "LogSoftmax", "Cumsum", "Cat", "Slice", "Glu", "Split", "SplitWithSizes", "UnsafeSplit",
)  # fmt: skip
REDUCTIONS = ("Amax", "Amin", "Logsumexp", "Var", "Std", "LinalgVectorNorm", "Select", "Unbind")
ATTENTION = ("FlashAttentionForCpu", "FlashAttention", "EfficientAttention", "CudnnAttention")

SEVERAL_OUTPUTS = frozenset({"SplitBackward0", "SplitWithSizesBackward0", "UnsafeSplitBackward0", "UnbindBackward0"})

MATCHES: dict[str, Match] = {
    **_numbered(_aligned, *ELEMENTWISE),
    **_numbered(_leading, *BY_SAMPLE),
    **_numbered(_product(0, 0), "Mm"),
    **_numbered(_product(1, 0), "Addmm"),
    **_numbered(_product(0, 1), "Bmm"),
    **_numbered(_product(1, 1), "Baddbmm"),
    **_numbered(_along("dim"), *ALONG_ONE),
    **_numbered(_along("dim"), "FftR2C", "FftC2R", "FftC2C"),
    **_numbered(_along("dims"), "Flip", "Roll"),
    **_numbered(_in_pairs, "ViewAsReal", "ViewAsComplex"),
    **_numbered(_reducing, *REDUCTIONS),
    **_numbered(_stack, "Stack"),
    **_numbered(_padded, "ConstantPadNd"),
    **_numbered(_attention, *(f"ScaledDotProduct{kernel}" for kernel in ATTENTION)),
    **_numbered(_transposed, "Transpose"),
    **_numbered(_permuted, "Permute"),
    **_numbered(_layer_norm, "NativeLayerNorm", "FusedRmsNorm"),
    **_numbered(_batch_norm, "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"),
    # over chosen dimensions; the forms that reduce everything have other numbers
    "SumBackward1": _reducing,
    "MeanBackward1": _reducing,
}
