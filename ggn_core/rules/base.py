"""What a rule offers: how it recognises a use of a parameter, and the Jacobian block it makes of it."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

__all__ = ["Block", "Edges", "Layout", "Rows", "Use", "is_leaf"]

# A node's inputs, as Node.next_functions gives them.
Edges = tuple[tuple[Node | None, int], ...]


def is_leaf(node: Node) -> bool:
    """Whether ``node`` is where a leaf tensor enters the graph."""
    return node.name() == "torch::autograd::AccumulateGrad"


@dataclass(frozen=True)
class Layout:
    """To which sample each row of a layer's output belongs.

    A layer sees ``samples * positions`` rows: one position for a plain batch, more for sequences.

    Attributes:
        samples: Number of samples n.
        positions: Rows of each sample, T.
        sample_major: Rows run as (n, T) if true, as (T, n) if false.
    """

    samples: int
    positions: int
    sample_major: bool

    def split(self, rows: Tensor) -> Tensor:
        """Gives each sample its rows: (..., R, d) -> (..., n, T, d), a view."""
        *lead, _, d = rows.shape
        if self.sample_major:
            return rows.view(*lead, self.samples, self.positions, d)
        return rows.view(*lead, self.positions, self.samples, d).transpose(-3, -2)

    def label(self, per_sample: Tensor) -> Tensor:
        """Repeats one value a sample for each of its rows: (n,) -> (R,)."""
        if self.sample_major:
            return per_sample.repeat_interleave(self.positions)
        return per_sample.repeat(self.positions)


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


class Use(Protocol):
    """One use of one or more parameters by one node of the autograd graph."""

    @property
    def edge(self) -> GradientEdge:
        """The node's output; the gradient that flows into it is the cotangent the rule needs."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters this use reads."""

    @property
    def handled(self) -> tuple[int, ...]:
        """The positions of the node's inputs that this use accounts for."""

    @property
    def rows(self) -> int:
        """Rows R of the node's output: its cotangent reshapes to (R, -1)."""

    @property
    def signature(self) -> object:
        """Hashable; changes when the shapes or the parameters of the use change."""

    def without(self, parameters: Container[Tensor]) -> "Use":
        """The same use, blind to some of its parameters."""


class Block(Protocol):
    """The columns of the Jacobian that belong to a few parameters, kept in a form that need not be dense."""

    def add_gram_(self, gram: Tensor) -> None:
        """Adds J Jᵀ to ``gram``, of shape (o, n, o, n)."""

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        """Adds ``alpha`` Jᵀ v to the parameters in place, for ``v`` of shape (o, n)."""

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each parameter with its part of Jᵀ v."""
