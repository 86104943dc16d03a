"""The Jacobian of a batch of residuals: blocks that know their Gram matrix and their transpose, never formed."""

import functools
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from .backward import backward_passes
from .capture import Trace, trace
from .choice import Choice, Choose, Chooser
from .derived import Derived, derive
from .errors import NonFiniteError, ResidualsError
from .layout import layouts_by_proof, layouts_by_test
from .rules import Block, Layout, Rows, Use, batched_products, embedding, linear_blocks, weight_norm
from .rules.base import HALF, WHOLE, widened
from .rules.batched_products import BatchedProductUse
from .rules.convolution import ConvolutionUse
from .rules.dense import dense_blocks
from .rules.embedding import EmbeddingUse
from .rules.generic import generic_blocks
from .rules.linear import LinearUse
from .rules.recomputed import RecomputedBlock
from .rules.triangle import mirrored
from .workspace import Workspace

__all__ = ["Jacobian", "Linearizer", "as_rows", "check_finite"]

# A use with its cotangent (o, *z.shape) and the layout of z.
Seen = tuple[Use, Tensor, Layout]

REMEMBERED = 64  # graphs

MIXED = "samples meet, or run in no known order, between its layer and the residuals"


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
        return self.rows.sample_major(sum(products[1:], start=products[0]).reshape(-1))

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        """Adds ``alpha`` Jᵀ v to the parameters in place."""
        weights = self._by_output(v)
        by_dtype = {dtype: weights.to(dtype) for dtype in self.dtypes}
        # What is formed anew reads the graph, in which a parameter may be a layer's input: so before any is changed.
        late = [block for block in self.blocks if isinstance(block, RecomputedBlock)]
        parts = [part for block in late for part in block.transposed(by_dtype[block.dtype])]
        for block in self.blocks:
            if not isinstance(block, RecomputedBlock):
                block.add_transposed_(by_dtype[block.dtype], alpha)
        for parameter, part in parts:
            parameter.add_(part, alpha=alpha)

    def _by_output(self, v: Tensor) -> Tensor:
        """(n·o,) -> (o, n), as the blocks take it."""
        return self.rows.output_major(v).view(self.rows.outputs, self.rows.samples)


class Linearizer:
    """Makes the Jacobian of each step's residuals, remembering what has been proved about a graph.

    The memory is keyed by the graph's signature, so a change of model, of mode or of batch size is looked at anew; a
    graph about which nothing could be proved is tested at every step.

    Args:
        keep_bytes: Of explicit rows; those beyond are formed anew when they are needed.
        by_values: Whether values may decide, which makes the device wait: without, NaN and infinity go through, and
            uses about which nothing can be proved are left to the generic rule untested.
        choose: Chooses between ways to the same rows or products.
    """

    def __init__(self, keep_bytes: float = math.inf, *, by_values: bool = True, choose: Choose = "auto") -> None:
        self._keep_bytes = keep_bytes
        self._choose = Chooser(choose)
        self._by_values = by_values
        self._proofs: dict[object, tuple[Layout | None, ...]] = {}
        # The last step's explicit rows, each held until its successor is formed. Were all let go at once, the C library
        # would give their memory back to the system, and fetch it anew page by page: a third of a ResNet's step. GPUs
        # have an allocator that keeps it.
        self._last_rows: dict[Tensor, Tensor] = {}

    def __call__(self, residuals: Tensor, parameters: dict[Tensor, str]) -> Jacobian:
        """The Jacobian of ``residuals``, whose leading dimension counts samples.

        Args:
            residuals: (n, ...) or a scalar, finite, with a graph.
            parameters: The parameters and their names.

        Raises:
            ResidualsError: The residuals are empty or carry no graph.
            NonFiniteError: The residuals hold NaN or infinity.
            UnsupportedError: The graph holds something that has no exact treatment.
        """
        rows = as_rows(residuals)
        if self._by_values:
            check_finite(residuals)
        traced = trace(residuals, parameters)
        served, derived, generic = self._served(residuals, traced, rows)
        blocks: list[Block] = []
        chosen = {p: [source.choice] for source in derived.sources.values() for p in source.parameters}
        if generic:
            blocks += generic_blocks(residuals, list(generic), rows, traced.vectorisable)
        if served:
            cotangents = self._cotangents(residuals, [use for use, _ in served], rows, traced.vectorisable)
            seen: list[Seen] = []
            for (use, layout), cotangent in zip(served, cotangents, strict=True):
                if cotangent.dtype in HALF:
                    cotangent = functools.reduce(widened, use.parameters, cotangent)
                if isinstance(use, ConvolutionUse) and use.weight is not None:
                    use = use.chosen(cotangent, self._choose)
                    chosen.setdefault(use.weight, []).append(use.choice)  # type: ignore[arg-type]
                seen.append((use, cotangent, layout))
            blocks += self._blocks(seen, derived, rows, traced.vectorisable)
        return Jacobian(blocks, rows, generic, residuals.detach(), chosen)

    def _served(
        self, residuals: Tensor, traced: Trace, rows: Rows
    ) -> tuple[list[tuple[Use, Layout]], Derived, dict[Tensor, str]]:
        """The uses in which samples keep apart, with layouts; those by way of computed tensors are among them.

        Returns:
            The uses; what the latter serve; and the parameters of all other uses, with reasons.
        """
        key = (residuals.shape, residuals.output_nr, traced.signature)
        proofs = self._proofs.get(key)
        if proofs is None:
            if len(self._proofs) >= REMEMBERED:
                self._proofs.clear()  # a graph that differs at every step: keep the memory bounded
            proofs = self._proofs[key] = layouts_by_proof(residuals, traced.uses, rows)
        found = list(zip(traced.uses, proofs, strict=True))
        generic = traced.generic | _of_unknown(found)
        derived = derive(residuals, generic, rows) if generic else Derived()
        found = _without(found, derived.parameters)
        untested = [use for use, layout in found if layout is None]
        if untested and self._by_values:
            tested = dict(zip(untested, layouts_by_test(residuals, untested, rows), strict=True))
            found = [(use, tested.get(use, layout)) for use, layout in found]
        mixed = _of_unknown(found)
        served = [(use, layout) for use, layout in _without(found, mixed) if layout is not None]
        generic = {p: reason for p, reason in traced.generic.items() if p not in derived.parameters} | mixed
        return served + list(derived.uses), derived, generic

    def _blocks(self, served: Sequence[Seen], derived: Derived, rows: Rows, vectorise: bool) -> list[Block]:
        """Gives each parameter the most economical block that all of its uses allow."""
        uses_of: dict[Tensor, list[Seen]] = {}
        for seen in served:
            for parameter in seen[0].parameters:
                uses_of.setdefault(parameter, []).append(seen)
        made = self._derived_blocks(uses_of, derived, rows, vectorise)
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

    def _derived_blocks(
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

    @staticmethod
    def _cotangents(residuals: Tensor, uses: Sequence[Use], rows: Rows, vectorise: bool) -> list[Tensor]:
        """∂(Σ_i residual_ik)/∂z for every output k: rows of different samples do not meet, so one pass serves all i.

        Returns:
            For each use, (o, *z.shape).
        """
        n, o = rows.samples, rows.outputs
        if o == 1:
            basis = torch.ones_like(residuals).unsqueeze(0)
        else:  # (o, n, o): cotangent k picks output k of every sample
            basis = torch.eye(o, dtype=residuals.dtype, device=residuals.device).unsqueeze(1).expand(o, n, o)
            basis = basis.reshape(o, *residuals.shape)
        return list(backward_passes(residuals, [use.edge for use in uses], basis, vectorise))


def _of_unknown(found: Sequence[tuple[Use, Layout | None]]) -> dict[Tensor, str]:
    """The parameters of uses without a layout."""
    return {p: MIXED for use, layout in found if layout is None for p in use.parameters}


def _without(
    found: Sequence[tuple[Use, Layout | None]], parameters: Container[Tensor]
) -> list[tuple[Use, Layout | None]]:
    """The uses that are left without those parameters; equal uses keep their identity where none of them is there."""
    if not parameters:
        return list(found)
    return [(kept, layout) for use, layout in found if (kept := use.without(parameters)) is not None]


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


def as_rows(residuals: Tensor) -> Rows:
    """Checks the residuals and reads their shape: (n, ...) has n samples, a scalar has one."""
    if not isinstance(residuals, Tensor):
        raise ResidualsError(f"the residuals must be a tensor, not {type(residuals).__name__}")
    if not residuals.is_floating_point():
        raise ResidualsError(f"the residuals must be real floating point, not {residuals.dtype}")
    if residuals.grad_fn is None:
        raise ResidualsError(
            "the residuals carry no autograd graph: compute them from the model, with gradients enabled and no detach()"
        )
    if residuals.numel() == 0:
        raise ResidualsError(f"the residuals are empty, shape {tuple(residuals.shape)}: an empty batch has no step")
    samples = residuals.shape[0] if residuals.dim() else 1
    return Rows(samples, residuals.numel() // samples)


def check_finite(residuals: Tensor) -> None:
    """Raises NonFiniteError if there is a NaN or an infinity, both of which come through the largest magnitude."""
    if not float(torch.linalg.vector_norm(residuals.detach(), torch.inf)) < torch.inf:
        raise NonFiniteError(f"the residuals hold NaN or infinity, shape {tuple(residuals.shape)}")
