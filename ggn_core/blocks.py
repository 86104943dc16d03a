"""Gives each parameter the most economical block of the Jacobian that all of its uses allow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from .choice import Chooser
from .derived import Derived
from .rules import Block, Layout, Rows, Use, batched_products, embedding, linear_blocks, weight_norm
from .rules.base import WHOLE
from .rules.batched_products import BatchedProductUse
from .rules.dense import dense_blocks
from .rules.embedding import EmbeddingUse
from .rules.linear import LinearUse
from .rules.recomputed import RecomputedBlock

__all__ = ["BlockMaker", "Seen"]

# A use with its cotangent (o, *z.shape) and the layout of z.
Seen = tuple[Use, Tensor, Layout]


class BlockMaker:
    """Makes the blocks of one step after another.

    Args:
        keep_bytes: Of explicit rows; those beyond are formed anew when they are needed.
        choose: Chooses between ways to the same products.
    """

    def __init__(self, keep_bytes: float, choose: Chooser):
        self._keep_bytes = keep_bytes
        self._choose = choose
        # The last step's explicit rows, each held until its successor is formed. Were all let go at once, the C library
        # would give their memory back to the system, and fetch it anew page by page: a third of a ResNet's step. GPUs
        # have an allocator that keeps it.
        self._last_rows: dict[Tensor, Tensor] = {}

    def __call__(self, served: Sequence[Seen], derived: Derived, rows: Rows, vectorise: bool) -> list[Block]:
        """Gives each parameter the most economical block that all of its uses allow."""
        uses_of: dict[Tensor, list[Seen]] = {}
        for seen in served:
            for parameter in seen[0].parameters:
                uses_of.setdefault(parameter, []).append(seen)
        made = self._derived(uses_of, derived, rows, vectorise)
        kinds = {
            p: _kind(p, uses) for p, uses in uses_of.items() if p not in derived.parameters and p not in derived.sources
        }
        linear_only = {p for p, kind in kinds.items() if kind is LinearUse}
        looked_up = [p for p, kind in kinds.items() if kind is EmbeddingUse]
        batched = [p for p, kind in kinds.items() if kind is BatchedProductUse]
        dense = [p for p, kind in kinds.items() if kind is None]

        products = [(use, cotangent, layout) for use, cotangent, layout in served if isinstance(use, LinearUse)]
        made += linear_blocks.blocks(products, linear_only, rows, self._choose)
        for table in looked_up:
            look_ups = [(u, g, layout) for u, g, layout in uses_of[table] if isinstance(u, EmbeddingUse)]
            made.append(embedding.block(table, look_ups))
        for weight in batched:
            side_by_side = [(u, g, layout) for u, g, layout in uses_of[weight] if isinstance(u, BatchedProductUse)]
            made.append(batched_products.block(weight, side_by_side, rows, self._choose))
        kept, formed_anew = _within(dense, rows, self._keep_bytes)
        rows_of = self._form_rows({p: uses_of[p] for p in kept})
        if kept:
            made += dense_blocks(kept, rows_of)
        made += [RecomputedBlock(p, partial(_summed_rows, p, uses_of[p]), rows) for p in formed_anew]
        return made

    def _derived(
        self, uses_of: Mapping[Tensor, Sequence[Seen]], derived: Derived, rows: Rows, vectorise: bool
    ) -> list[Block]:
        """Explicit rows: summed over the computed tensors by way of which they come, and over direct uses."""
        formed = {p: _summed_rows(p, uses_of[p]) for p in derived.parameters if p in uses_of}
        ways = Counter([*formed, *(p for source in derived.sources.values() for p in source.parameters)])
        made: list[Block] = []
        for player, source in derived.sources.items():
            if all(ways[p] == 1 for p in source.parameters):
                node = source.edge.node
                block = weight_norm.block(node, source.parameters, uses_of[player], rows, self._choose)
                if block is not None:
                    made.append(block)
                    continue
            for p, part in source.pulled_back(_summed_rows(player, uses_of[player]), vectorise).items():
                formed[p] = formed[p] + part if p in formed else part
        return made + list(dense_blocks(list(formed), list(formed.values())))

    def _form_rows(self, uses_of: Mapping[Tensor, Sequence[Seen]]) -> list[Tensor]:
        """The explicit rows of each parameter, (o, n, *shape)."""
        formed: dict[Tensor, Tensor] = {}
        for parameter, uses in uses_of.items():
            self._last_rows.pop(parameter, None)
            formed[parameter] = _summed_rows(parameter, uses)
        self._last_rows = {p: rows for p, rows in formed.items() if rows.device.type == "cpu"}
        return list(formed.values())


def _kind(parameter: Tensor, uses: Sequence[Seen]) -> type[Use] | None:
    """The kind of use that has blocks of its own, if all of a parameter's are of it; None for explicit rows."""
    kinds = {type(use) for use, _, _ in uses}
    if kinds in ({LinearUse}, {EmbeddingUse}):
        return kinds.pop()
    weights = all(isinstance(use, BatchedProductUse) and use.only_weight(parameter) for use, _, _ in uses)
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
