"""The rule of embeddings: z_t = W[index_t], so a sample's Jacobian row is g_t at row index_t, and zero elsewhere.

Two positions meet in the Gram matrix only where they look up the same row:
(J Jᵀ)_ij = Σ_{t,s} [index_it = index_js] g_it · g_js.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .base import WHOLE, Edges, Layout, Parameters, Plan, Rows, leaf, output_shape, saved

__all__ = ["RECOGNISERS", "EmbeddingBlock", "EmbeddingUse"]


@dataclass(frozen=True, eq=False)
class EmbeddingUse:
    """One look-up in one table.

    Attributes:
        edge: The output z, of shape (*indices.shape, d).
        weight: The table, (rows, d).
        indices: Integers; entries equal to ``padding`` get no gradient.
        padding: An index, or −1 for none.
    """

    edge: GradientEdge
    weight: Tensor
    indices: Tensor
    padding: int
    handled: tuple[int, ...] = (0,)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def layouts(self, samples: int) -> Sequence[Layout]:
        if samples == 1:
            return (Layout(1, axis=None),)
        return [layout for axis, size in enumerate(self.indices.shape) for layout in Layout.along(axis, size, samples)]

    def without(self, parameters: Container[Tensor]) -> "EmbeddingUse | None":
        return None if self.weight in parameters else self

    def look_ups(self, cotangent: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Indices (n, T') and cotangents (o, n, T', d), one entry a look-up; zero where padding was looked up."""
        g = layout.split(cotangent)  # (o, n, T, …, d)
        indices = layout.split(self.indices.unsqueeze(0))[0].flatten(1)
        g = g.flatten(2, -2) if g.dim() > 4 else g
        if self.padding >= 0:
            g = g.masked_fill((indices == self.padding).unsqueeze(-1), 0)
        return indices, g

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        return _scattered(*self.look_ups(cotangent, layout), parameter, part)


class EmbeddingBlock:
    """The Jacobian of a table that is only looked up: never dense, whatever the number of its rows.

    Args:
        weight: (rows, d).
        indices: (n, T).
        cotangents: (o, n, T, d).
    """

    def __init__(self, weight: Tensor, indices: Tensor, cotangents: Tensor):
        self.weight = weight
        self.indices = indices
        self.cotangents = cotangents

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def plans(self) -> list[Plan]:
        o, n, t, d = self.cotangents.shape
        why = f"{t} look-ups a sample meet where they look up the same row"
        return [Plan(self.parameters, "look-ups", why, 2 * (o * n * t) ** 2 * d, self.cotangents.nbytes)]

    @property
    def dtype(self) -> torch.dtype:
        return self.cotangents.dtype

    def add_gram_(self, gram: Tensor) -> None:
        o, n, t, _ = self.cotangents.shape
        flat = self.cotangents.flatten(0, 2)  # (o n T, d)
        meet = (self.indices.view(1, -1, 1, 1) == self.indices.view(1, 1, 1, -1)).expand(o, -1, o, -1)  # (o, nT, o, nT)
        products = (flat @ flat.T).view(o, n * t, o, n * t) * meet
        gram += products.view(o, n, t, o, n, t).sum((2, 5)).view(o * n, o * n)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self.weight, torch.zeros_like(self.weight).index_add_(0, self.indices.flatten(), self._weighted(v)))]

    @property
    def kind(self) -> str:
        """Equal for blocks whose factors can be joined."""
        return "embedding"

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Indices (1, n, T, 1) and cotangents (o, n, T, d); zeros may be added at the end of T."""
        return self.indices[None, :, :, None], self.cotangents

    def joined(self, factors: Sequence[Tensor], rows: Rows) -> "EmbeddingBlock":
        """The same block with the factors of more samples."""
        indices, cotangents = factors
        return EmbeddingBlock(self.weight, indices[0, :, :, 0], cotangents)

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        return _scattered(self.indices, self.cotangents, parameter, part)

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        looked_up = direction[self.weight].to(self.dtype)[self.indices]  # (n, T, d)
        return (self.cotangents * looked_up).sum((2, 3))

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        self.weight.index_add_(0, self.indices.flatten(), self._weighted(v), alpha=alpha)

    def _weighted(self, v: Tensor) -> Tensor:
        return (self.cotangents * v[:, :, None, None]).sum(0).flatten(0, 1)  # (n T, d)


def _scattered(indices: Tensor, g: Tensor, weight: Tensor, part: slice) -> Tensor:
    """The rows (o, n, rows, d) of the table, cut to ``part``, from look-ups (n, T) and cotangents (o, n, T, d)."""
    start, stop, _ = part.indices(weight.shape[0])
    if part != WHOLE:
        elsewhere = (indices < start) | (indices >= stop)
        indices, g = indices.masked_fill(elsewhere, start), g.masked_fill(elsewhere.unsqueeze(-1), 0)
    rows = g.new_zeros(*g.shape[:2], stop - start, *weight.shape[1:])
    return rows.scatter_add_(2, (indices - start)[None, :, :, None].expand_as(g), g)


def block(weight: Tensor, uses: Sequence[tuple[EmbeddingUse, Tensor, Layout]]) -> EmbeddingBlock:
    """Lays the look-ups of several uses of one table end to end."""
    parts = [use.look_ups(cotangent, layout) for use, cotangent, layout in uses]
    return EmbeddingBlock(weight, torch.cat([i for i, _ in parts], 1), torch.cat([g for _, g in parts], 2))


def _embedding(node: Node, edges: Edges, parameters: Parameters) -> EmbeddingUse | None:
    weight = leaf(edges[0], parameters)
    if weight is None or saved(node, "scale_grad_by_freq"):
        return None  # gradients scaled by frequency are not derivatives: the generic rule does as autograd does
    padding = int(saved(node, "padding_idx"))
    padding = padding if 0 <= padding < weight.shape[0] else -1
    indices = saved(node, "indices")
    assert output_shape(node) == (*indices.shape, weight.shape[1])
    return EmbeddingUse(GradientEdge(node, 0), weight, indices, padding)


RECOGNISERS = {"EmbeddingBackward0": _embedding}
