"""Proves, from the autograd graph alone, that samples stay apart: then no numerical test is needed, now or later.

The claim about a tensor is that its leading dimension runs sample by sample (n blocks of equal size) and that the
entries of sample i act on the residuals of sample i only. It holds for the residuals by definition. It passes from a
node's output to an input if the node's operation keeps the leading blocks apart whatever the values of its tensors.
Operations listed here do, under the conditions given; for everything else the claim is simply not made, and the
layouts are tested at every step instead (see layout.py).
"""

from collections.abc import Callable, Sequence

from torch.autograd.graph import Node

from .rules import is_leaf
from .rules.base import output_shape, saved

__all__ = ["sample_major"]

Shape = tuple[int, ...]
# (node, shape of the output, position of the input, its shape) -> whether leading blocks stay apart.
Condition = Callable[[Node, Shape, int, Shape], bool]


def sample_major(root: Node, samples: int) -> frozenset[Node]:
    """The nodes whose output provably runs sample by sample, each sample acting on its own residuals only.

    Args:
        root: The residuals' node.
        samples: Number of samples n.
    """
    order = _consumers_first(root)
    apart = dict.fromkeys(order, True)  # until some consumer says otherwise
    for node in order:
        if not _has_leading_blocks(output_shape(node), samples):
            apart[node] = False
        for position, (child, number) in enumerate(node.next_functions):
            if child is None or is_leaf(child):
                continue
            shape = tuple(child._input_metadata[number].shape)
            apart[child] &= number == 0 and apart[node] and _keeps_apart(node, position, shape)
    return frozenset(node for node in order if apart[node])


def _has_leading_blocks(shape: Shape, samples: int) -> bool:
    return bool(shape) and shape[0] % samples == 0


def _keeps_apart(node: Node, position: int, shape: Shape) -> bool:
    condition = CONDITIONS.get(node.name())
    return condition is not None and condition(node, output_shape(node), position, shape)


def _consumers_first(root: Node) -> list[Node]:
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


def _same_leading(node: Node, out: Shape, position: int, shape: Shape) -> bool:
    """Entry by entry, with broadcasting anywhere but along the leading dimension."""
    return len(shape) == len(out) and shape[0] == out[0]


def _first_only(node: Node, out: Shape, position: int, shape: Shape) -> bool:
    """Through the first input, row by row: convolutions, pooling, normalization by sample or by constants."""
    return position == 0 and bool(shape) and shape[0] == out[0]


def _view(node: Node, out: Shape, position: int, shape: Shape) -> bool:
    """Row-major order is kept, so leading blocks of equal size are, as long as the leading dimension holds them."""
    return bool(shape)  # that it divides is checked for every node


def _left_factor(at: int) -> Condition:
    """Products a @ w treat rows of a alike; through w, all rows would meet."""
    return lambda node, out, position, shape: position == at and shape[0] == out[0]


def _off_the_leading_axis(*names: str) -> Condition:
    """Operations along dimensions other than the first."""

    def condition(node: Node, out: Shape, position: int, shape: Shape) -> bool:
        dims: list[int] = []
        for name in names:
            value = saved(node, name)
            if value is None:  # over everything
                return False
            dims += value if isinstance(value, Sequence) else [value]
        # torch stores some negative dimensions as unsigned 64-bit numbers
        dims = [(dim - 2**64 if dim >= 2**63 else dim) for dim in dims]
        dims = [dim + len(shape) if dim < 0 else dim for dim in dims]
        return bool(shape) and bool(dims) and 0 not in dims and shape[0] == out[0]

    return condition


def _padding(node: Node, out: Shape, position: int, shape: Shape) -> bool:
    """Padding is given for the last dimensions first, two numbers each."""
    return len(saved(node, "pad")) < 2 * len(shape) or shape[0] == out[0]


def _batches(dimensions: int, *positions: int) -> Condition:
    """Products within the entries of the leading dimension, of tensors with so many dimensions."""
    return lambda node, out, position, shape: position in positions and len(shape) == dimensions and shape[0] == out[0]


def _permutation(node: Node, out: Shape, position: int, shape: Shape) -> bool:
    dims = saved(node, "dims")
    return bool(dims) and dims[0] == 0


def _layer_norm(node: Node, out: Shape, position: int, shape: Shape) -> bool:
    return position == 0 and len(saved(node, "normalized_shape")) < len(shape)


def _batch_norm(node: Node, out: Shape, position: int, shape: Shape) -> bool:
    return position == 0 and not saved(node, "training")


def _numbered(condition: Condition, *names: str) -> dict[str, Condition]:
    return {f"{name}Backward{number}": condition for name in names for number in (0, 1)}


ELEMENTWISE = (
    "Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Pow", "Exp", "Log", "Sqrt", "Rsqrt", "Reciprocal", "Abs", "Sin", "Cos",
    "Erf", "Relu", "Tanh", "Sigmoid", "Gelu", "Silu", "Mish", "Elu", "Softplus", "LeakyRelu", "LogSigmoid", "Hardtanh",
    "Hardswish", "Hardsigmoid", "Celu", "Clamp", "ClampMin", "ClampMax", "Maximum", "Minimum", "Where", "MaskedFill",
    "Lerp", "Addcmul", "PreluKernel", "NativeDropout", "ToCopy", "Clone", "Alias", "Expand",
)  # fmt: skip
BY_SAMPLE = (
    "Convolution", "NativeGroupNorm", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AvgPool2D", "AvgPool3D",
    "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleBilinear2D",
    "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D", "PixelShuffle", "Im2Col",
)  # fmt: skip
REDUCTIONS = ("Cumsum", "Amax", "Amin", "Logsumexp", "Var", "Std", "LinalgVectorNorm", "Glu")
ATTENTION = ("FlashAttentionForCpu", "FlashAttention", "EfficientAttention", "CudnnAttention")

CONDITIONS: dict[str, Condition] = {
    **_numbered(_same_leading, *ELEMENTWISE),
    **_numbered(_first_only, *BY_SAMPLE),
    **_numbered(_view, "View", "UnsafeView", "ReshapeAlias"),
    **_numbered(_left_factor(0), "Mm"),
    **_numbered(_left_factor(1), "Addmm"),
    **_numbered(_off_the_leading_axis("dim"), "Softmax", "LogSoftmax", "Cat", "Stack", "Slice", "Select", *REDUCTIONS),
    **_numbered(_off_the_leading_axis("dims"), "Flip"),
    **_numbered(_padding, "ConstantPadNd"),
    **_numbered(_batches(3, 0, 1), "Bmm"),
    **_numbered(_batches(4, 0, 1, 2), *(f"ScaledDotProduct{kernel}" for kernel in ATTENTION)),
    **_numbered(_off_the_leading_axis("dim0", "dim1"), "Transpose"),
    **_numbered(_permutation, "Permute"),
    **_numbered(_layer_norm, "NativeLayerNorm", "FusedRmsNorm"),
    **_numbered(_batch_norm, "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"),
    # over chosen dimensions; the forms that reduce everything have other numbers
    "SumBackward1": _off_the_leading_axis("dim"),
    "MeanBackward1": _off_the_leading_axis("dim"),
    "SqueezeBackward1": _off_the_leading_axis("dim"),
    "UnsqueezeBackward0": _off_the_leading_axis("dim"),
}
