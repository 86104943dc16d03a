"""From residuals to their Jacobian: how parameters enter, where the samples are, and which rules follow from both."""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from .backward import backward_passes, visit_on_the_way
from .blocks import Blocks
from .capture import Trace, trace
from .choice import Choose, Chooser
from .derived import Derived, derive
from .jacobian import Jacobian
from .layout import layouts_by_proof, layouts_by_test
from .residuals import as_rows, check_finite
from .rules import Block, Layout, Rows, Use
from .rules.generic import generic_blocks
from .rules.recomputed import RowMemory

__all__ = ["Linearizer"]

REMEMBERED = 64  # graphs

TOO_LARGE = "the rows of a tensor computed from it would take more memory than allowed"
MIXED = "samples meet, or run in no known order, between its layer and the residuals"


class Linearizer:
    """Makes the Jacobian of each step's residuals, remembering what has been proved about a graph.

    The memory is keyed by the graph's signature, so a change of model, of mode or of batch size is looked at anew; a
    graph about which nothing could be proved is tested at every step.

    Args:
        keep_bytes: Of explicit rows; those beyond are formed anew when they are needed.
        once: Whether the rows are needed for one thing only, such as the Gram matrix: then those that a structured rule
            forms are not kept.
        by_values: Whether values may decide, which makes the device wait: without, NaN and infinity go through, and
            uses about which nothing can be proved are left to the generic rule untested.
        choose: Chooses between ways to the same rows or products.
    """

    def __init__(
        self, keep_bytes: float = math.inf, *, once: bool = False, by_values: bool = True, choose: Choose = "auto"
    ) -> None:
        self._choose = Chooser(choose)
        self._keep_bytes = keep_bytes
        self._once = once
        self._by_values = by_values
        self._on_the_way = True  # whether rows may be formed while the backward pass goes on
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
        memory = RowMemory(self._keep_bytes)
        served, derived, generic = self._served(residuals, traced, parameters, rows, memory)
        blocks: list[Block] = []
        if generic:
            blocks += generic_blocks(residuals, list(generic), rows, traced.vectorisable, memory)
        # Once: the structured rules form anew, at little cost, whatever is needed again.
        begun = partial(Blocks, served, derived, rows, 0 if self._once else memory.left, self._choose, self._last_rows)
        step = self._taken(residuals, served, begun, rows, traced.vectorisable)
        blocks += step.made(traced.vectorisable)
        return Jacobian(blocks, rows, generic, residuals.detach(), step.chosen)

    def _taken(
        self,
        residuals: Tensor,
        served: Sequence[tuple[Use, Layout]],
        begun: Callable[[], Blocks],
        rows: Rows,
        vectorise: bool,
    ) -> Blocks:
        """The step's blocks, once they have taken the cotangents of all uses."""
        step = begun()
        if not served:
            return step
        if self._on_the_way and rows.outputs == 1 and step.forms_rows and residuals.device.type == "cpu":
            try:
                visit_on_the_way(residuals, step.visits())
                return step
            except CheckpointError:  # what is checkpointed can be looked at once in a pass
                self._on_the_way = False
                step = begun()
        cotangents = self._cotangents(residuals, [use for use, _ in served], rows, vectorise)
        for (_, visit), cotangent in zip(step.visits(), cotangents, strict=True):
            visit(cotangent)
        return step

    def _served(
        self, residuals: Tensor, traced: Trace, parameters: Mapping[Tensor, str], rows: Rows, memory: RowMemory
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
        derived = derive(residuals, generic, parameters, rows, memory) if generic else Derived()
        found = _without(found, derived.parameters)
        untested = [use for use, layout in found if layout is None]
        if untested and self._by_values:
            tested = dict(zip(untested, layouts_by_test(residuals, untested, rows), strict=True))
            found = [(use, tested.get(use, layout)) for use, layout in found]
        mixed = _of_unknown(found)
        served = [(use, layout) for use, layout in _without(found, mixed) if layout is not None]
        generic = {p: reason for p, reason in traced.generic.items() if p not in derived.parameters} | mixed
        generic |= dict.fromkeys((p for p in generic if p in derived.too_large), TOO_LARGE)
        return served + list(derived.uses), derived, generic

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
