"""How a step's time grows along the sweep, and where the first method's comes near a rival's."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...stepcost_suite import StepCostSuite
from ...sweep import Costs
from ...trial import StepCosts
from ..labels import Labels
from ..scaling import MIN_SIZES, SHAPE, Crossing, crossover, exponent, parameters
from ..statistics import Interval
from .summary import CellSummary, pooled

__all__ = ["AXES", "Crossover", "Growth", "crossovers", "growths"]

AXES = ("width", "batch_size")


class Growth(NamedTuple):
    """The exponents of a step's time along one axis.

    Attributes:
        axis: "width", "batch_size" or "parameters".
        rest: What else sets the cells apart.
        exponents: One a method of the suite.
    """

    axis: str
    rest: str
    exponents: list[Interval]


class Crossover(NamedTuple):
    """Where the first method's step costs no more than the suite's margin times a rival's.

    Attributes:
        axis: "width" or "batch_size".
        rest: What else sets the cells apart.
        crossings: One a rival; None where fewer than two sizes have been timed.
        noisy: Whether the machine was too noisy for a verdict in one of the cells.
    """

    axis: str
    rest: str
    crossings: list[Crossing | None]
    noisy: bool


def growths(suite: StepCostSuite, found: Sequence[Costs]) -> list[Growth]:
    """One entry an axis with at least three sizes and a rest of the cell."""
    fits = []
    for axis, rest, line in _lines(suite, found, MIN_SIZES):
        fitted = [
            exponent({size: pooled(_measured(cells), index) for size, cells in line.items()})
            for index in range(len(suite.methods))
        ]
        if not all(math.isnan(fit.median) for fit in fitted):
            fits.append(Growth(axis, rest, fitted))
    return fits


def crossovers(suite: StepCostSuite, cells: Sequence[CellSummary]) -> list[Crossover]:
    """One entry an axis with at least two sizes and a rest of the cell."""
    noisy = {summary.costs.cell for summary in cells if summary.noisy}
    crossed = []
    for axis, rest, line in _lines(suite, [summary.costs for summary in cells], 2):
        if axis in AXES:
            steps = [
                {size: pooled(_measured(costs), index) for size, costs in line.items()}
                for index in range(len(suite.methods))
            ]
            ours, *rivals = steps
            crossings = [
                crossover({size: (ours[size], theirs[size]) for size in ours}, suite.margin) for theirs in rivals
            ]
            is_noisy = any(costs.cell in noisy for entries in line.values() for costs in entries)
            crossed.append(Crossover(axis, rest, crossings, is_noisy))
    return crossed


def _lines(suite: StepCostSuite, found: Sequence[Costs], least: int) -> list[tuple[str, str, dict[float, list[Costs]]]]:
    """(axis, rest of the cell, size → cells), for every axis along which at least so many sizes were timed."""
    label = Labels(suite)
    swept = label.numeric_axes(2)
    axes: list[tuple[str, tuple[str, ...], Callable[[Costs], float | None]]] = [
        (axis, (axis,), lambda costs, axis=axis: label.value(costs.cell, axis))  # type: ignore[misc]
        for axis in AXES
        if axis in swept
    ]
    if any(axis in swept for axis in SHAPE):
        axes.append(("parameters", SHAPE, lambda costs: parameters(costs.results)))
    lines = []
    for axis, without, size_of in axes:
        by_rest: dict[str, dict[float, list[Costs]]] = {}
        for costs in found:
            size = size_of(costs)
            if size is not None and any(result.costs is not None for result in costs.results):
                by_rest.setdefault(label.cell(costs.cell, without), {}).setdefault(size, []).append(costs)
        lines += [(axis, rest, line) for rest, line in by_rest.items() if len(line) >= least]
    return lines


def _measured(cells: Sequence[Costs]) -> list[StepCosts]:
    return [result.costs for costs in cells for result in costs.results if result.costs is not None]
