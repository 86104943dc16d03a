"""The rule of parameters that scale or shift: z = w ⊙ x + c, with w and c broadcast against z.

Layer and batch normalization (with x the normalized input), PReLU, scales, shifts, and biases added by hand are of this
form. With g the cotangent of z, a sample's Jacobian row is g ⊙ x for w and g for c, summed over what was broadcast.
A quotient x / w is treated alike, with ∂z/∂w in place of x. Where x is complex, its conjugate takes part; and where w
is real all the same, the real part is the row.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import RESHAPING, WHOLE, Edge, Edges, Layout, Parameters, leaf, output_shape, saved, summed

__all__ = ["RECOGNISERS", "ElementwiseUse", "shift"]

# Gives ∂z/∂w, of a shape that broadcasts to z's; a number where it is constant.
Factor = Callable[[], Tensor | float]


@dataclass(frozen=True, eq=False)
class Term:
    """One parameter's part.

    Attributes:
        parameter: The parameter.
        aligned: Its shape with as many dimensions as z, ones where it is broadcast.
        factor: What it is multiplied by.
    """

    parameter: Tensor
    aligned: tuple[int, ...]
    factor: Factor

    def within(self, part: slice) -> tuple[slice, ...]:
        """Where, in z, a part of the parameter's leading dimension acts."""
        sizes = self.aligned if part != WHOLE else ()
        leading = next((axis for axis, size in enumerate(sizes) if size > 1), None)
        return () if leading is None else (WHOLE,) * leading + (part,)


@dataclass(frozen=True, eq=False)
class ElementwiseUse:
    """Scales and shifts by one node.

    Attributes:
        edge: The node's output z.
        shape: Of z.
        terms: The parameters' parts.
        handled: Positions of the parameters among the node's inputs.
    """

    edge: GradientEdge
    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    handled: tuple[int, ...]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(dict.fromkeys(term.parameter for term in self.terms))

    def layouts(self, samples: int) -> Sequence[Layout]:
        whole = (Layout(1, axis=None),) if samples == 1 else ()
        return [
            *whole,
            *(
                layout
                for axis, size in enumerate(self.shape)
                if all(term.aligned[axis] == 1 for term in self.terms)
                for layout in Layout.along(axis, size, samples)
            ),
        ]

    def without(self, parameters: Container[Tensor]) -> "ElementwiseUse | None":
        terms = tuple(term for term in self.terms if term.parameter not in parameters)
        return replace(self, terms=terms) if terms else None

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        rows = [self._rows(term, cotangent, layout, part) for term in self.terms if term.parameter is parameter]
        return summed(rows)

    def _rows(self, term: Term, cotangent: Tensor, layout: Layout, part: slice) -> Tensor:
        factor = term.factor()
        wanted = term.within(part)
        g = layout.split(cotangent[:, *wanted])  # (o, n, T, *shape without the axis)
        if isinstance(factor, Tensor):
            g = g * layout.split(factor.conj().expand(self.shape)[wanted].unsqueeze(0))
        elif factor != 1:
            g = g * factor
        if g.is_complex() and not term.parameter.is_complex():
            g = g.real
        kept = [size for axis, size in enumerate(term.aligned) if axis != layout.axis]
        summed = [2] + [3 + place for place, size in enumerate(kept) if size == 1]
        shape = term.parameter.shape if part == WHOLE else (-1, *term.parameter.shape[1:])
        return g.sum(summed).view(*g.shape[:2], *shape)


def _use(node: Node, found: Sequence[tuple[int, Tensor | None, tuple[int, ...], Factor]]) -> ElementwiseUse | None:
    """Makes a use of those (input position, parameter, aligned shape, factor) whose parameter is one."""
    terms = [(at, Term(p, aligned, factor)) for at, p, aligned, factor in found if p is not None]
    if not terms:
        return None
    handled = tuple(at for at, _ in terms)
    return ElementwiseUse(GradientEdge(node, 0), output_shape(node), tuple(term for _, term in terms), handled)


def _entering(edge: Edge, parameters: Parameters) -> tuple[Tensor | None, tuple[int, ...]]:
    """The parameter that enters there, and its shape as the operation sees it: with ones added or dropped by views."""
    first = edge
    while (node := edge[0]) is not None and _keeps_entries(node):
        edge = node.next_functions[0]
    parameter = leaf(edge, parameters)
    if parameter is None or first[0] is None:
        return None, ()
    own = tuple(parameter.shape)
    if node is first[0]:
        return parameter, own
    seen = output_shape(first[0])
    return (parameter if _without_ones(seen) == _without_ones(own) else parameters.standing_for(first)), seen


def _keeps_entries(node: Node) -> bool:
    """Whether the output has the input's entries, in their order; torch.func.vmap multiplies biases by 1."""
    name = node.name()
    return name in RESHAPING or (name == "MulBackward1" and saved(node, "other") == 1)


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _trailing(seen: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """A parameter's shape aligned to the last dimensions of z, as arithmetic broadcasts."""
    return (1,) * (len(shape) - len(seen)) + seen


def _channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A parameter's shape aligned to dimension 1 of z, as normalization by channel does."""
    return (1, shape[1], *(1 for _ in shape[2:]))


def _one() -> float:
    return 1.0


def _multiplication(node: Node, edges: Edges, parameters: Parameters) -> ElementwiseUse | None:
    shape = output_shape(node)
    (left, seen_left), (right, seen_right) = (_entering(edge, parameters) for edge in edges)
    return _use(
        node,
        (
            (0, left, _trailing(seen_left, shape), lambda: _same_dtype(saved(node, "other"), left)),
            (1, right, _trailing(seen_right, shape), lambda: _same_dtype(saved(node, "self"), right)),
        ),
    )


def _division(node: Node, edges: Edges, parameters: Parameters) -> ElementwiseUse | None:
    """The quotient z = x / w, with ∂z/∂x = 1/w and ∂z/∂w = −x/w²."""
    shape = output_shape(node)
    (above, seen_above), (below, seen_below) = (_entering(edge, parameters) for edge in edges)

    def slope_below() -> Tensor:
        x, w = saved(node, "self"), saved(node, "other")
        return _same_dtype(-x / (w * w), below)

    return _use(
        node,
        (
            (0, above, _trailing(seen_above, shape), lambda: _reciprocal(saved(node, "other"), above)),
            (1, below, _trailing(seen_below, shape), slope_below),
        ),
    )


def _reciprocal(divisor: Tensor, parameter: Tensor | None) -> Tensor:
    # Not divisor.reciprocal(): where a number was divided by, that has the default dtype.
    dtype = divisor.dtype if parameter is None else parameter.dtype
    return _same_dtype(torch.ones((), dtype=dtype, device=divisor.device) / divisor, parameter)


def _same_dtype(factor: Tensor, parameter: Tensor | None) -> Tensor:
    if parameter is None or factor.is_complex() or parameter.is_complex():
        return factor
    return factor.to(parameter.dtype)


def _sum(node: Node, edges: Edges, parameters: Parameters, sign: int) -> ElementwiseUse | None:
    """The sum or difference z = left ± alpha · right."""
    shape = output_shape(node)
    (left, seen_left), (right, seen_right) = (_entering(edge, parameters) for edge in edges)
    factor = sign * float(saved(node, "alpha"))
    return _use(
        node,
        (
            (0, left, _trailing(seen_left, shape), _one),
            (1, right, _trailing(seen_right, shape), lambda: factor),
        ),
    )


def shift(node: Node, edges: Edges, parameters: Parameters) -> ElementwiseUse | None:
    """The use of what is added, broadcast, to all else that a node computes, by its first input."""
    parameter, seen = _entering(edges[0], parameters)
    return _use(node, ((0, parameter, _trailing(seen, output_shape(node)), _one),))


def _layer_norm(node: Node, edges: Edges, parameters: Parameters) -> ElementwiseUse | None:
    aligned = _trailing(tuple(saved(node, "normalized_shape")), output_shape(node))
    weight, bias = leaf(edges[1], parameters), leaf(edges[2], parameters)

    def normalized() -> Tensor:
        x: Tensor = saved(node, "input")
        return x.sub(saved(node, "result1")).mul_(saved(node, "result2"))

    return _use(node, ((1, weight, aligned, normalized), (2, bias, aligned, _one)))


def _rms_norm(node: Node, edges: Edges, parameters: Parameters) -> ElementwiseUse | None:
    """The fused kernel of GPUs; elsewhere the normalization is made of products."""
    shape, normalized_shape = output_shape(node), tuple(saved(node, "normalized_shape"))
    weight = leaf(edges[1], parameters)

    def normalized() -> Tensor:
        x: Tensor = saved(node, "input")
        over = len(normalized_shape)
        return x.mul(saved(node, "result1").view(*shape[:-over], *(1,) * over))

    return _use(node, ((1, weight, _trailing(normalized_shape, shape), normalized),))


def _batch_norm(node: Node, edges: Edges, parameters: Parameters) -> ElementwiseUse | None:
    """In evaluation mode the running statistics are constants; in training mode this rule does not apply."""
    if saved(node, "training"):
        return None
    shape = output_shape(node)
    weight, bias = leaf(edges[1], parameters), leaf(edges[2], parameters)

    def normalized() -> Tensor:
        x: Tensor = saved(node, "input")
        mean, var, by_channel = saved(node, "running_mean"), saved(node, "running_var"), _channel(shape)
        eps = saved(node, "eps" if node.name().startswith("Native") else "epsilon")  # cuDNN's and MIOpen's name for it
        return x.sub(mean.view(by_channel)).mul_((var + eps).rsqrt().view(by_channel))

    return _use(node, ((1, weight, _channel(shape), normalized), (2, bias, _channel(shape), _one)))


def _prelu(node: Node, edges: Edges, parameters: Parameters) -> ElementwiseUse | None:
    """PReLU is z = max(x, 0) + w min(x, 0); torch hands the kernel a view of the weight, (1, c, 1, …)."""
    weight, seen = _entering(edges[1], parameters)
    return _use(node, ((1, weight, _trailing(seen, output_shape(node)), lambda: saved(node, "self").clamp(max=0)),))


RECOGNISERS: dict[str, Callable[[Node, Edges, Parameters], ElementwiseUse | None]] = {
    "MulBackward0": _multiplication,
    "DivBackward0": _division,
    "AddBackward0": partial(_sum, sign=1),
    "SubBackward0": partial(_sum, sign=-1),
    "ExpandBackward0": shift,
    "NativeLayerNormBackward0": _layer_norm,
    "FusedRmsNormBackward0": _rms_norm,
    "NativeBatchNormBackward0": _batch_norm,
    "CudnnBatchNormBackward0": _batch_norm,
    "MiopenBatchNormBackward0": _batch_norm,
    "PreluKernelBackward0": _prelu,
}
