"""The rule of linear layers: z = a Wᵀ + c, over single vectors or sequences.

With a_t the input and g_t = ∂f/∂z_t the output cotangent at position t, a sample's Jacobian row is
∂f/∂W = Σ_t g_t ⊗ a_t and ∂f/∂c = Σ_t g_t, so that

    (J Jᵀ)_ij = Σ_{t,s} (g_it · g_js) (a_it · a_js + 1)          (the 1 is the bias's share)
    Jᵀ v      = Σ_i v_i Σ_t g_it ⊗ a_it                          (one product, the size of a weight gradient)

A weight used several times is a weight with more positions: its uses are laid end to end along t.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import WHOLE, Edge, Edges, Layout, Parameters, cut, layer_input, leaf, output_shape, present, saved

__all__ = ["RECOGNISERS", "LinearUse"]


@dataclass(frozen=True, eq=False)
class LinearUse:
    """One product of rows with a matrix, z = a Wᵀ + c.

    Attributes:
        edge: The product's output z, of shape (R, p).
        rows: R.
        activation: The input rows a, of shape (R, d); None if the weight is not trainable.
        weight: The weight, if it is a trainable parameter; stored as (p, d), or as (d, p) if ``flipped``.
        bias: The bias, of shape (p,), if it is a trainable parameter.
        flipped: Whether the product is a W rather than a Wᵀ.
        handled: Positions, among the node's inputs, of the weight and the bias.
    """

    edge: GradientEdge
    rows: int
    activation: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    flipped: bool
    handled: tuple[int, ...]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return present(self.weight, self.bias)

    def layouts(self, samples: int) -> Sequence[Layout]:
        return Layout.along(0, self.rows, samples)

    def without(self, parameters: Container[Tensor]) -> "LinearUse | None":
        kept = replace(
            self,
            weight=None if self.weight in parameters else self.weight,
            bias=None if self.bias in parameters else self.bias,
        )
        return kept if kept.parameters else None

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        g = layout.split(cotangent)  # (o, n, T, p)
        if parameter is self.bias:
            return cut(g.sum(2), part)
        assert self.activation is not None
        a = layout.split(self.activation.conj().unsqueeze(0))  # (1, n, T, d)
        if self.flipped:
            return a[..., part].transpose(2, 3) @ g  # (o, n, d, p)
        return g[..., part].transpose(2, 3) @ a  # (o, n, p, d)


def _addmm(node: Node, edges: Edges, parameters: Parameters) -> LinearUse | None:
    """Recognises ``torch.addmm(bias, a, weight)``, the product behind ``torch.nn.functional.linear`` with a bias."""
    if saved(node, "alpha") != 1 or saved(node, "beta") != 1:
        return None
    weight, flipped = _matrix(edges[2], parameters)
    bias = leaf(edges[0], parameters)
    if bias is not None and bias.shape != output_shape(node)[1:]:
        bias = None  # broadcast in another way: the generic rule's
    rows = saved(node, "mat1_sym_sizes")[0]
    activation = saved(node, "mat1") if weight is not None else None
    return _use(node, parameters, rows, activation, weight, bias, flipped, weight_at=2)


def _mm(node: Node, edges: Edges, parameters: Parameters) -> LinearUse | None:
    """Recognises ``torch.mm(a, weight)``, the product behind ``torch.nn.functional.linear`` without a bias."""
    weight, flipped = _matrix(edges[1], parameters)
    if weight is None:
        return None
    activation = saved(node, "self")
    return _use(node, parameters, activation.shape[0], activation, weight, None, flipped, weight_at=1)


def _use(
    node: Node,
    parameters: Parameters,
    rows: int,
    activation: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    flipped: bool,
    *,
    weight_at: int,
) -> LinearUse | None:
    if weight is None and bias is None:
        return None
    handled = ((weight_at,) if weight is not None else ()) + ((0,) if bias is not None else ())
    if weight is not None and activation is not None:
        activation = layer_input(activation, weight, parameters)
    return LinearUse(GradientEdge(node, 0), rows, activation, weight, bias, flipped, handled)


def _matrix(edge: Edge, parameters: Parameters) -> tuple[Tensor | None, bool]:
    """The parameter W behind the second factor of a product, and whether the product is with W rather than Wᵀ."""
    flipped = True
    while (node := edge[0]) is not None and (transposing := TRANSPOSING.get(node.name())) is not None:
        flipped ^= transposing(node)
        edge = node.next_functions[0]
    return leaf(edge, parameters), flipped


def _exchanges(node: Node) -> bool:
    """Whether a transposition of two dimensions is of different ones; negative ones are stored as unsigned numbers."""
    return bool((saved(node, "dim0") - saved(node, "dim1")) % 2)


# Views of a matrix -> whether they exchange its dimensions.
TRANSPOSING: dict[str, Callable[[Node], bool]] = {
    "TBackward0": lambda node: True,
    "PermuteBackward0": lambda node: saved(node, "dims")[0] % 2 == 1,
    "TransposeBackward0": _exchanges,
    "TransposeBackward1": _exchanges,
    "AliasBackward0": lambda node: False,
}

RECOGNISERS = {"AddmmBackward0": _addmm, "MmBackward0": _mm}
