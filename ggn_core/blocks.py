"""Gives each parameter the most economical block of the Jacobian that all of its uses allow."""

import functools
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .backward import Visit
from .choice import Chooser
from .derived import Derived
from .rules import Block, Layout, Rows, Use, weight_norm
from .rules.base import HALF, WHOLE, Seen, summed, widened
from .rules.convolution import ConvolutionUse
from .rules.dense import dense_blocks
from .rules.recomputed import RecomputedBlock, RowMemory
from .rules.relabelled import RelabelledBlock
from .rules.structured import kind, structured_blocks

__all__ = ["Blocks"]


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
        # What computed tensors serve, and they themselves, but for those that have blocks of their own.
        elsewhere = {*derived.parameters, *derived.sources}.difference(derived.relabelled)
        uses_of: dict[Tensor, list[Use]] = {}
        for use, _ in served:
            for parameter in use.parameters:
                if parameter not in elsewhere:
                    uses_of.setdefault(parameter, []).append(use)
        self._kinds = {p: kind(p, uses) for p, uses in uses_of.items()}
        explicit = [p for p, kind in self._kinds.items() if kind is None]
        kept, self._formed_anew = RowMemory(keep_bytes).divided(explicit, rows)
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
        for parameter in use.parameters:
            if (label := self._derived.relabelled.get(parameter)) is not None:
                cotangent = cotangent * label.scale
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
        structured = structured_blocks(self._kinds, self._seen, uses_of, self._rows, self._choose)
        made += [block for block in structured if block.parameters[0] not in self._derived.relabelled]
        made += self._relabelled([block for block in structured if block.parameters[0] in self._derived.relabelled])
        formed = {p: rows for p, rows in self._formed.items() if rows is not None}
        assert len(formed) == len(self._formed)  # every use has brought its cotangent
        made += dense_blocks(list(formed), list(formed.values()))
        self._last_rows.update({p: rows for p, rows in formed.items() if rows.device.type == "cpu"})
        form = partial(_formed, uses_of)
        made += [RecomputedBlock([p], form, self._rows) for p in self._formed_anew]
        return made

    def _of_derived(self, uses_of: Mapping[Tensor, Sequence[Seen]], vectorise: bool) -> list[Block]:
        """Weight normalization has blocks of its own; all else has explicit rows."""
        derived, rows = self._derived, self._rows
        made: list[Block] = [
            weight_norm.block(derived.sources[player].edge.node, uses_of[player], rows, self._choose)
            for player in derived.sources
            if player in derived.normalized
        ]
        form = partial(self._by_all_ways, uses_of, vectorise)
        if derived.kept:
            made += dense_blocks(derived.kept, form(derived.kept, WHOLE))
        return made + [RecomputedBlock([p], form, rows) for p in derived.formed_anew]

    def _relabelled(self, blocks: Sequence[Block]) -> list[Block]:
        """The blocks of the parameters of which those blocks' weights are entries, one for each dtype."""
        by_dtype: dict[torch.dtype, list[Block]] = {}
        for block in blocks:
            by_dtype.setdefault(block.dtype, []).append(block)
        return [RelabelledBlock(own, self._derived.relabelled) for own in by_dtype.values()]

    def _by_all_ways(
        self, uses_of: Mapping[Tensor, Sequence[Seen]], vectorise: bool, parameters: Sequence[Tensor], part: slice
    ) -> list[Tensor]:
        """Explicit rows: summed over the computed tensors by way of which they come, and over direct uses."""
        formed = {p: _summed_rows(p, uses_of[p], part) for p in parameters if p in uses_of}
        for player, source in self._derived.sources.items():
            below = set(source.parameters)
            served = [p for p in parameters if p in below]
            if not served:
                continue
            rows = _summed_rows(player, uses_of[player])
            for p, columns in zip(served, source.pulled_back(rows, served, vectorise, part), strict=True):
                formed[p] = formed[p] + columns if p in formed else columns
        return [formed[p] for p in parameters]


def _formed(uses_of: Mapping[Tensor, Sequence[Seen]], parameters: Sequence[Tensor], part: slice) -> list[Tensor]:
    """The rows of some parameters, cut to ``part``."""
    return [_summed_rows(p, uses_of[p], part) for p in parameters]


def _summed_rows(parameter: Tensor, uses: Sequence[Seen], part: slice = WHOLE) -> Tensor:
    """The rows of a parameter, (o, n, *shape) cut to ``part``: the sum over its uses."""
    parts = [use.jacobian_rows(parameter, cotangent, layout, part) for use, cotangent, layout in uses]
    return summed(parts)
