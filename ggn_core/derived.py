"""Serves parameters through tensors that are computed from them: normalized weights, low-rank updates, masked weights.

Let w be such a tensor, used by layers where a parameter might stand. The rules give its rows, as if it were one, and
its own small graph pulls them back: with θ below it, a residual's row is

    ∂f/∂θ = Σ_w (∂f/∂w) (∂w/∂θ)

one product of a cotangent with ∂w/∂θ for every residual. The rest of the network sees o backward passes, not n·o.

Which tensors these are follows from the proof that samples keep apart (see rowwise.py): it goes down from the residuals
through what holds the samples, and w is where it ends, for below a tensor without a place no tensor has one. So each
path from the residuals to θ leaves the proof once. Whatever is below, ∂w/∂θ is what autograd takes it for, and the sum
is exact if every path leaves by a use that a rule recognises.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .backward import rows_pulled_back
from .choice import Choice
from .layout import layout_by_proof
from .rowwise import Place, places
from .rules import RECOGNISERS, Layout, Parameters, Rows, Use, is_leaf, weight_norm
from .rules.base import HALF, WHOLE, Edge, output_bytes
from .rules.recomputed import RowMemory
from .rules.relabelled import Relabelling, apart, relabelling
from .rules.structured import kind

__all__ = ["Derived", "Source", "derive"]


@dataclass(frozen=True)
class Source:
    """A computed tensor w.

    Attributes:
        edge: Where the graph computes it.
        parameters: Those θ below it that it serves.
    """

    edge: GradientEdge
    parameters: tuple[Tensor, ...]

    def pulled_back(
        self, rows: Tensor, parameters: Sequence[Tensor], vectorise: bool, part: slice = WHOLE
    ) -> list[Tensor]:
        """The rows of some of its parameters by way of w, from those of w; see ``rows_pulled_back``."""
        return rows_pulled_back(self.edge, parameters, rows.to(self._output.dtype), vectorise, part)

    def row_bytes(self, rows: Rows) -> int:
        """Of the rows of w."""
        return rows.total * output_bytes(self.edge.node, self.edge.output_nr)

    @property
    def choice(self) -> Choice:
        """For ``explain``."""
        name, shape = self.edge.node.name(), tuple(self._output.shape)
        return Choice("by way of a tensor computed from it", f"{shape} by {name}")

    @property
    def _output(self) -> Any:
        return self.edge.node._input_metadata[self.edge.output_nr]


@dataclass(frozen=True)
class Derived:
    """How some parameters are served.

    Attributes:
        parameters: Those, in an order that does not change from step to step.
        uses: Of one of them, or of a tensor that plays a parameter, in layers; with layouts.
        sources: What plays a parameter -> the computed tensor it stands for.
        normalized: Those of the players that are weights under weight normalization.
        relabelled: Those that are entries of a parameter, and are used by layers with blocks of their own.
        kept: The parameters by way of other players, of which explicit rows are formed, and kept.
        formed_anew: Those of which they are formed when they are needed, for they would take too much memory.
        too_large: Parameters that could be served, were the rows of a computed tensor not too many for the memory.
    """

    parameters: Set[Tensor] = frozenset()
    uses: Sequence[tuple[Use, Layout]] = ()
    sources: Mapping[Tensor, Source] = field(default_factory=dict)
    normalized: Set[Tensor] = frozenset()
    relabelled: Mapping[Tensor, Relabelling] = field(default_factory=dict)
    kept: Sequence[Tensor] = ()
    formed_anew: Sequence[Tensor] = ()
    too_large: Set[Tensor] = frozenset()

    def has_rows(self, player: Tensor) -> bool:
        """Whether explicit rows of it are formed, to be pulled back."""
        return player in self.sources and player not in self.normalized and player not in self.relabelled


def derive(
    residuals: Tensor, wanted: Iterable[Tensor], parameters: Iterable[Tensor], rows: Rows, memory: RowMemory
) -> Derived:
    """Finds which parameters can be served in this way, and how.

    Args:
        residuals: With their graph, which is kept.
        wanted: Those of the parameters that no rule serves directly.
        parameters: All of them.
        rows: The shape of the residuals.
        memory: For explicit rows.
    """
    root = residuals.grad_fn
    assert root is not None
    if rows.samples == 1 or residuals.output_nr != 0:  # no proof, see rowwise.py
        return Derived()
    placed = places(root, tuple(residuals.shape), rows.samples)
    known = _Players(wanted, parameters, placed)
    found: list[tuple[Tensor, Use, Layout]] = []
    failed: set[Tensor] = set()
    for node in dict.fromkeys(node for node, _ in placed):
        assert node is not None
        entering = {at: known.beneath(edge[0]) for at, edge in enumerate(node.next_functions) if edge not in placed}
        if not any(entering.values()):
            continue
        recognise = RECOGNISERS.get(node.name())
        use = recognise(node, node.next_functions, known) if recognise is not None else None
        if use is None:
            failed.update(*entering.values())
            continue
        failed.update(*(beneath for at, beneath in entering.items() if at not in use.handled))
        for player in use.parameters:
            # Each by itself: where one of them is an input like any other, and no layout fits it, others may do.
            own = use.without(set(use.parameters) - {player})
            assert own is not None
            layout = layout_by_proof(own, placed.get((node, 0)), rows.samples)
            if layout is None:
                failed.update(known.served_by(player))
            else:
                found.append((player, own, layout))

    derived = _without(failed, found, known)
    too_large = {
        p
        for player, source in derived.sources.items()
        if derived.has_rows(player) and source.row_bytes(rows) > memory.left
        for p in source.parameters
    }
    if too_large:
        derived = _without(failed | too_large, found, known)
    # The rows of one player at a time exist beside those that are kept.
    passing = (source.row_bytes(rows) for player, source in derived.sources.items() if derived.has_rows(player))
    memory.left -= max(passing, default=0)
    kept, formed_anew = memory.divided(derived.kept, rows)
    return replace(derived, kept=kept, formed_anew=formed_anew, too_large=too_large)


def _without(failed: Set[Tensor], uses: Sequence[tuple[Tensor, Use, Layout]], known: "_Players") -> Derived:
    """What is served, and how, where some parameters are left to others; as if all rows could be kept."""
    left = [(p, use, layout) for p, use, layout in uses if not failed >= set(known.served_by(p))]
    uses_of: dict[Tensor, list[Use]] = {}
    for player, use, _ in left:
        uses_of.setdefault(player, []).append(use)
    ways: dict[Tensor, list[Tensor]] = {}  # parameter -> the players by way of which its rows come
    for player in uses_of:
        for p in known.served_by(player):
            if p not in failed:
                ways.setdefault(p, []).append(player)
    sources = {
        player: Source(known.edges[player], tuple(p for p in known.served_by(player) if p in ways))
        for player in uses_of
        if player in known.edges
    }
    normalized = _normalized(sources, ways, uses_of)
    relabelled = _relabelled(sources, ways, uses_of)
    without_rows = {*normalized, *relabelled}
    return Derived(
        ways.keys(),
        [(use, layout) for _, use, layout in left],
        sources,
        normalized,
        relabelled,
        [p for p, players in ways.items() if without_rows.isdisjoint(players)],
    )


Ways = Mapping[Tensor, Sequence[Tensor]]
UsesOf = Mapping[Tensor, Sequence[Use]]


def _normalized(sources: Mapping[Tensor, Source], ways: Ways, uses_of: UsesOf) -> set[Tensor]:
    """The players that are weights under weight normalization, their parameters' only ways."""
    return {
        player
        for player, source in sources.items()
        if all(len(ways[p]) == 1 for p in source.parameters)
        and weight_norm.applies(source.edge.node, source.parameters, uses_of[player])
    }


def _relabelled(sources: Mapping[Tensor, Source], ways: Ways, uses_of: UsesOf) -> dict[Tensor, Relabelling]:
    """The players that are entries of a parameter, all ways of which are such, apart and of one dtype."""
    relabelled: dict[Tensor, Relabelling] = {}
    for players in ways.values():
        labels = {w: relabelling(sources[w].edge) for w in players if w in sources and kind(w, uses_of[w])}
        found = {w: label for w, label in labels.items() if label is not None}
        one_dtype = len({w.dtype for w in players}) == 1
        if len(found) == len(players) and one_dtype and apart(found.values()):
            relabelled |= found
    return relabelled


class _Players(Parameters):
    """Parameters, and what may play one: tensors computed on the way, in which samples have no place.

    Args:
        wanted: The former.
        parameters: All that the update changes.
        placed: Outputs of nodes in which they do.

    Attributes:
        edges: Of the players that were asked for, where they are computed.
    """

    def __init__(self, wanted: Iterable[Tensor], parameters: Iterable[Tensor], placed: Mapping[Edge, Place]):
        super().__init__(wanted)
        self._changed = Parameters(parameters)
        self._placed = placed
        self._players: dict[Edge, Tensor] = {}
        self._beneath: dict[Node, tuple[Tensor, ...]] = {}
        self.edges: dict[Tensor, GradientEdge] = {}

    def share_memory_with(self, tensor: Tensor) -> bool:
        return self._changed.share_memory_with(tensor)

    def standing_for(self, edge: Edge) -> Tensor | None:
        node, number = edge
        if node is None or edge in self._placed:
            return None
        if edge not in self._players:
            output = node._input_metadata[number]
            numbers = output.dtype.is_floating_point or output.dtype.is_complex
            if not numbers or output.dtype in HALF:  # the latter would round the rows
                return None
            # Its shape, dtype and device; the rules ask for no values.
            player = torch.empty((), dtype=output.dtype, device=output.device).expand(tuple(output.shape))
            self._players[edge] = player
            self.edges[player] = GradientEdge(node, number)
        return self._players[edge]

    def served_by(self, player: Tensor) -> tuple[Tensor, ...]:
        """The parameters whose rows come by way of it; of a parameter, itself."""
        return self.beneath(self.edges[player].node) if player in self.edges else (player,)

    def beneath(self, start: Node | None) -> tuple[Tensor, ...]:
        """The parameters that enter the graph at a node or below it."""
        if start is None:
            return ()
        if start not in self._beneath:
            found: dict[Tensor, None] = {}
            visited, stack = {start}, [start]
            while stack:
                node = stack.pop()
                if is_leaf(node) and (variable := node.variable) in self:  # type: ignore[attr-defined]
                    found[variable] = None
                for child, _ in node.next_functions:
                    if child is not None and child not in visited:
                        visited.add(child)
                        stack.append(child)
            self._beneath[start] = tuple(found)
        return self._beneath[start]
