"""The Jacobian of a batch of residuals: blocks that know their Gram matrix and their transpose, never formed."""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from .choice import Choice
from .rules import Block, Rows
from .rules.base import summed
from .rules.recomputed import RecomputedBlock
from .rules.relabelled import RelabelledBlock
from .rules.triangle import mirrored
from .workspace import Workspace

__all__ = ["Jacobian"]

READING_THE_GRAPH = (RecomputedBlock, RelabelledBlock)  # the blocks that do so for Jᵀ v


class Jacobian:
    """J of shape (n·o, P) for n samples with o residuals each.

    Outside, rows run as ``residuals.reshape(-1)``: sample by sample. The blocks run output by output, the order in
    which backward passes deliver cotangents.

    Args:
        blocks: Together they hold the columns of all parameters.
        rows: The shape of the residuals.
        generic: The parameters that went through the generic rule, each with the reason.
        like: Has the residuals' device.
        chosen: The parameters to whose rows there are several ways, with those taken.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        rows: Rows,
        generic: Mapping[Tensor, str],
        like: Tensor,
        chosen: Mapping[Tensor, Sequence[Choice]] = MappingProxyType({}),
    ):
        self.blocks = blocks
        self.rows = rows
        self.generic = generic
        self.like = like
        self.chosen = chosen

    def gram(self) -> Tensor:
        """J Jᵀ, of shape (n·o, n·o)."""
        o, n = self.rows.outputs, self.rows.samples
        gram = mirrored(self.lower_gram(Workspace()))
        return gram if o == 1 else gram.view(o, n, o, n).permute(1, 0, 3, 2).reshape(n * o, n * o)

    def lower_gram(self, workspace: Workspace) -> Tensor:
        """The lower triangle of J Jᵀ with its rows output by output, (o·n, o·n); what is above it means nothing."""
        # One sum for each dtype among the layers; in the end, the widest of them.
        size, device = self.rows.total, self.like.device
        sums = {dtype: workspace.square(f"sum in {dtype}", size, dtype, device).zero_() for dtype in self.dtypes}
        self.add_shares_(sums)
        widest = functools.reduce(torch.promote_types, sums)
        first, *others = (part.to(widest) for part in sums.values())
        return sum(others, start=first)

    @property
    def dtypes(self) -> list[torch.dtype]:
        """Of the blocks, each once."""
        return list(dict.fromkeys(block.dtype for block in self.blocks))

    def add_shares_(self, sums: Mapping[torch.dtype, Tensor]) -> None:
        """Adds each block's J Jᵀ to the lower triangle of the matrix of its dtype."""
        for block in self.blocks:
            block.add_gram_(sums[block.dtype])

    def transposed(self, v: Tensor) -> dict[Tensor, Tensor]:
        """Jᵀ v, parameter by parameter, for v of shape (n·o,)."""
        weights = self._by_output(v)
        return {p: part for block in self.blocks for p, part in block.transposed(weights.to(block.dtype))}

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        """J u, of shape (n·o,), for a direction u that holds a tensor of each parameter's shape."""
        products = [block.product(direction) for block in self.blocks]
        return self.rows.sample_major(summed(products).reshape(-1))

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        """Adds ``alpha`` Jᵀ v to the parameters in place."""
        weights = self._by_output(v)
        by_dtype = {dtype: weights.to(dtype) for dtype in self.dtypes}
        # What reads the graph, in which a parameter or what shares its memory may be saved, does so before any changes.
        late = [block for block in self.blocks if isinstance(block, READING_THE_GRAPH)]
        parts = [part for block in late for part in block.transposed(by_dtype[block.dtype])]
        for block in self.blocks:
            if not isinstance(block, READING_THE_GRAPH):
                block.add_transposed_(by_dtype[block.dtype], alpha)
        for parameter, part in parts:
            parameter.add_(part, alpha=alpha)

    def _by_output(self, v: Tensor) -> Tensor:
        """(n·o,) -> (o, n), as the blocks take it."""
        return self.rows.output_major(v).view(self.rows.outputs, self.rows.samples)
