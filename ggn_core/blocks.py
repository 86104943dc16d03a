"""Gives each parameter the most economical block of the Jacobian that all of its uses allow."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor
from torch.autograd.graph import GradientEdge

from .backward import Visit
from .choice import Chooser
from .derived import Derived
from .rules import Block, Layout, Rows, Use, batched_products, embedding, linear_blocks, weight_norm
from .rules.base import HALF, WHOLE, widened
from .rules.batched_products import BatchedProductUse
from .rules.convolution import ConvolutionUse
from .rules.dense import dense_blocks
from .rules.embedding import EmbeddingUse
from .rules.linear import LinearUse
from .rules.recomputed import RecomputedBlock

__all__ = ["Blocks"]

# A use with its cotangent (o, *z.shape) and the layout of z.
Seen = tuple[Use, Tensor, Layout]


class Blocks:
    """The blocks of one step, made from the cotangents of its uses, which come one by one and in any order.

    Args:
        served: The uses with their layouts.
        derived: What is served by way of computed tensors.
        rows: The shape of the residuals.
        keep_bytes: Of explicit rows; those beyond are formed anew when they are needed.
        choose: Chooses between ways to the same rows or products.
        last_rows: The last step's explicit rows, and in the end this step's.

    Attributes:
        chosen: For ``explain``, the ways that were taken where there are several.
    """

    def __init__(
        self,
        served: Sequence[tuple[Use, Layout]],
        derived: Derived,
        rows: Rows,
        keep_bytes: float,
        choose: Chooser,
        last_rows: dict[Tensor, Tensor],
    ):
        self._derived, self._rows, self._choose, self._last_rows = derived, rows, choose, last_rows
        self._served = served
        self.chosen = {p: [source.choice] for source in derived.sources.values() for p in source.parameters}
        uses_of: dict[Tensor, list[Use]] = {}
        for use, _ in served:
            for parameter in use.parameters:
                if parameter not in derived.parameters and parameter not in derived.sources:
                    uses_of.setdefault(parameter, []).append(use)
        self._kinds = {p: _kind(p, uses) for p, uses in uses_of.items()}
        kept, self._formed_anew = _within([p for p, kind in self._kinds.items() if kind is None], rows, keep_bytes)
        self._formed: dict[Tensor, Tensor | None] = dict.fromkeys(kept)  # explicit rows (o, n, *shape), one by one
        self._seen: list[Seen] = []
        for parameter in [p for p in last_rows if p not in self._formed]:
            del last_rows[parameter]

    @property
    def forms_rows(self) -> bool:
        """Whether explicit rows are formed from cotangents that are not needed any more after that."""
        return bool(self._formed)

    def visits(self) -> list[tuple[GradientEdge, Visit]]:
        """For every use the edge whose cotangents are wanted, and what takes them."""
        return [(use.edge, partial(self._take, use, layout)) for use, layout in self._served]

    def _take(self, use: Use, layout: Layout, cotangent: Tensor) -> None:
        """Takes a use's cotangent, (o, *z.shape)."""
        if cotangent.dtype in HALF:
            cotangent = functools.reduce(widened, use.parameters, cotangent)
        if isinstance(use, ConvolutionUse) and use.weight is not None:
            use = use.chosen(cotangent, self._choose)
            self.chosen.setdefault(use.weight, []).append(use.choice)  # type: ignore[arg-type]
        for parameter in use.parameters:
            if parameter in self._formed:
                self._last_rows.pop(parameter, None)
                part, former = use.jacobian_rows(parameter, cotangent, layout), self._formed[parameter]
                self._formed[parameter] = part if former is None else former + part
        if any(parameter not in self._formed for parameter in use.parameters):
            self._seen.append((use, cotangent, layout))

    def made(self, vectorise: bool) -> list[Block]:
        """Gives each parameter the most economical block that all of its uses allow.

        Args:
            vectorise: Whether torch.func.vmap may be used.
        """
        uses_of: dict[Tensor, list[Seen]] = {}
        for seen in self._seen:
            for parameter in seen[0].parameters:
                uses_of.setdefault(parameter, []).append(seen)
        made = self._of_derived(uses_of, vectorise)
        linear_only = {p for p, kind in self._kinds.items() if kind is LinearUse}
        looked_up = [p for p, kind in self._kinds.items() if kind is EmbeddingUse]
        batched = [p for p, kind in self._kinds.items() if kind is BatchedProductUse]

        products = [(use, cotangent, layout) for use, cotangent, layout in self._seen if isinstance(use, LinearUse)]
        made += linear_blocks.blocks(products, linear_only, self._rows, self._choose)
        for table in looked_up:
            look_ups = [(u, g, layout) for u, g, layout in uses_of[table] if isinstance(u, EmbeddingUse)]
            made.append(embedding.block(table, look_ups))
        for weight in batched:
            side_by_side = [(u, g, layout) for u, g, layout in uses_of[weight] if isinstance(u, BatchedProductUse)]
            made.append(batched_products.block(weight, side_by_side, self._rows, self._choose))
        formed = {p: rows for p, rows in self._formed.items() if rows is not None}
        assert len(formed) == len(self._formed)  # every use has brought its cotangent
        made += dense_blocks(list(formed), list(formed.values()))
        self._last_rows.update({p: rows for p, rows in formed.items() if rows.device.type == "cpu"})
        made += [RecomputedBlock(p, partial(_summed_rows, p, uses_of[p]), self._rows) for p in self._formed_anew]
        return made

    def _of_derived(self, uses_of: Mapping[Tensor, Sequence[Seen]], vectorise: bool) -> list[Block]:
        """Explicit rows: summed over the computed tensors by way of which they come, and over direct uses."""
        sources = self._derived.sources
        formed = {p: _summed_rows(p, uses_of[p]) for p in self._derived.parameters if p in uses_of}
        ways = Counter([*formed, *(p for source in sources.values() for p in source.parameters)])
        made: list[Block] = []
        for player, source in sources.items():
            if all(ways[p] == 1 for p in source.parameters):
                node = source.edge.node
                block = weight_norm.block(node, source.parameters, uses_of[player], self._rows, self._choose)
                if block is not None:
                    made.append(block)
                    continue
            for p, part in source.pulled_back(_summed_rows(player, uses_of[player]), vectorise).items():
                formed[p] = formed[p] + part if p in formed else part
        return made + list(dense_blocks(list(formed), list(formed.values())))


def _kind(parameter: Tensor, uses: Sequence[Use]) -> type[Use] | None:
    """The kind of use that has blocks of its own, if all of a parameter's are of it; None for explicit rows."""
    kinds = {type(use) for use in uses}
    if kinds in ({LinearUse}, {EmbeddingUse}):
        return kinds.pop()
    weights = all(isinstance(use, BatchedProductUse) and use.only_weight(parameter) for use in uses)
    return BatchedProductUse if weights else None


def _within(parameters: Sequence[Tensor], rows: Rows, keep_bytes: float) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters whose rows may be kept, the smallest first, and the others; each in the order given."""
    kept, used = set(), 0
    for parameter in sorted(parameters, key=lambda p: p.nbytes):
        used += rows.total * parameter.nbytes
        if used <= keep_bytes:
            kept.add(parameter)
    return [p for p in parameters if p in kept], [p for p in parameters if p not in kept]


def _summed_rows(parameter: Tensor, uses: Sequence[Seen], part: slice = WHOLE) -> Tensor:
    """The rows of a parameter, (o, n, *shape) cut to ``part``: the sum over its uses."""
    parts = [use.jacobian_rows(parameter, cotangent, layout, part) for use, cotangent, layout in uses]
    return sum(parts[1:], start=parts[0])
