"""The uses that have blocks of their own, of which no explicit row is formed, and those blocks."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..choice import Chooser
from . import batched_products, embedding, linear_blocks
from .base import Block, Rows, Seen, Use
from .batched_products import BatchedProductUse
from .embedding import EmbeddingUse
from .linear import LinearUse

__all__ = ["Kind", "kind", "structured_blocks"]

Kind = type[LinearUse] | type[EmbeddingUse] | type[BatchedProductUse]


def kind(parameter: Tensor, uses: Sequence[Use]) -> Kind | None:
    """The kind of all of a parameter's uses, if there is one that has blocks of its own; complex ones have none."""
    if parameter.is_complex():
        return None
    kinds = {type(use) for use in uses}
    if kinds == {LinearUse}:
        return LinearUse
    if kinds == {EmbeddingUse}:
        return EmbeddingUse
    weights = all(isinstance(use, BatchedProductUse) and use.only_weight(parameter) for use in uses)
    return BatchedProductUse if weights else None


def structured_blocks(
    kinds: Mapping[Tensor, Kind | None],
    seen: Sequence[Seen],
    uses_of: Mapping[Tensor, Sequence[Seen]],
    rows: Rows,
    choose: Chooser,
) -> list[Block]:
    """The blocks of the parameters of such kinds.

    Args:
        kinds: Of all parameters that are used; those of no kind are passed over.
        seen: The uses of the others, and perhaps more.
        uses_of: The same, parameter by parameter.
        rows: The shape of the residuals.
        choose: Chooses between the ways to the Gram matrix of several positions.
    """
    products = [(use, g, layout) for use, g, layout in seen if isinstance(use, LinearUse)]
    made: list[Block] = []
    made += linear_blocks.blocks(products, {p for p, kind in kinds.items() if kind is LinearUse}, rows, choose)
    for p, kind in kinds.items():
        if kind is EmbeddingUse:
            made.append(embedding.block(p, [(u, g, at) for u, g, at in uses_of[p] if isinstance(u, EmbeddingUse)]))
        elif kind is BatchedProductUse:
            products_of = [(u, g, at) for u, g, at in uses_of[p] if isinstance(u, BatchedProductUse)]
            made.append(batched_products.block(p, products_of, rows, choose))
    return made
