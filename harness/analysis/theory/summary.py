"""Numbers of a theory suite: exponents and orders with intervals over seeds."""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from ...sweep import Costs
from ...trial import Descent, TheoryRecord, TrialResult
from ..statistics import FloatArray, Interval, median_interval, slope_interval

__all__ = [
    "FLOOR", "CellSummary", "activations", "best_descents", "bound_ratios", "gap_exponent", "order", "records",
    "summaries", "tail_rate", "width_exponent", "widths",
]  # fmt: skip

FLOOR = 1e-12  # residual norms below it are rounding; they enter no fit

Groups = list[tuple[FloatArray, FloatArray]]


class CellSummary(NamedTuple):
    """One cell: medians over seeds with intervals.

    Attributes:
        costs: The cell and its results.
        link_gap: Of one step from kernel regression, relative.
        order: Of the undamped step, along its descents.
        bound: The largest ‖r⁺‖ over its bound; NaN where there is no bound.
        rate: Of the residual an epoch over fixed mini-batches, in the second half.
        predicted: The same of block Gauss–Seidel.
    """

    costs: Costs
    link_gap: Interval
    order: Interval
    bound: float
    rate: Interval
    predicted: Interval


def summaries(found: Sequence[Costs]) -> list[CellSummary]:
    """One summary a cell, in the suite's order."""
    return [_summary(costs) for costs in found]


def _summary(costs: Costs) -> CellSummary:
    measured = [record for _, record in records([costs])]
    return CellSummary(
        costs=costs,
        link_gap=median_interval([record.link_gap for record in measured]),
        order=order([costs]),
        bound=max(bound_ratios([costs]), default=math.nan),
        rate=median_interval([tail_rate(record.epoch_residuals, record) for record in measured]),
        predicted=median_interval([tail_rate(record.predicted_residuals, record) for record in measured]),
    )


def records(found: Sequence[Costs], activation: str | None = None) -> Iterator[tuple[TrialResult, TheoryRecord]]:
    """What was measured, with the results it stands in, of one activation or all."""
    for costs in found:
        if activation in (None, costs.cell.problem.activation):
            for result in costs.results:
                if result.theory is not None:
                    yield result, result.theory


def activations(found: Sequence[Costs]) -> list[str]:
    return list(dict.fromkeys(costs.cell.problem.activation for costs in found))


def widths(found: Sequence[Costs], activation: str | None = None) -> list[int]:
    """The widths that were measured, in ascending order."""
    return sorted({result.trial.problem.width for result, _ in records(found, activation)})


def gap_exponent(found: Sequence[Costs], activation: str | None = None) -> Interval:
    """Slope of log gap on log width, with an intercept for each seed and activation."""
    return _exponent(found, activation, lambda record: record.link_gap)


def width_exponent(found: Sequence[Costs], activation: str | None = None) -> Interval:
    """Slope of log(‖r₁‖/‖r₀‖²) on log width, at the first start."""

    def coefficient(record: TheoryRecord) -> float:
        residuals = record.descents[0].residuals
        return residuals[1] / residuals[0] ** 2 if len(residuals) > 1 else math.nan

    return _exponent(found, activation, coefficient)


def order(found: Sequence[Costs], activation: str | None = None) -> Interval:
    """Slope of log‖r⁺‖ on log‖r‖ along the undamped descents of GGN, with an intercept for each."""

    def groups(record: TheoryRecord) -> Groups:
        followed = [_pairs(descent) for descent in record.descents if descent.method.name == "ggn"]
        return [_logs(pairs) for pairs in followed if pairs]

    return _slope(found, activation, groups)


def bound_ratios(found: Sequence[Costs], activation: str | None = None) -> list[float]:
    """‖r⁺‖ over its bound C/√M ‖r‖², for every step of the undamped descents that has one."""
    return [
        after / (factor * before**2)
        for _, record in records(found, activation)
        for descent in record.descents
        for factor, before, after in zip(descent.factors, descent.residuals, descent.residuals[1:], strict=False)
        if after > FLOOR
    ]


def tail_rate(residuals: Sequence[float], record: TheoryRecord) -> float:
    """The factor an epoch in the second half of the passes, as far as the measured residuals are above rounding."""
    last = sum(residual > FLOOR for residual in record.epoch_residuals) - 1
    first = last // 2
    if last <= first or residuals[last] <= 0:
        return math.nan
    return float((residuals[last] / residuals[first]) ** (1 / (last - first)))


def best_descents(found: Sequence[Costs], activation: str, method: str) -> list[Descent]:
    """The descents of a method with the settings whose last residual is lowest, in the median over all trials."""
    by_settings: dict[str, list[Descent]] = {}
    for _, record in records(found, activation):
        for descent in record.descents:
            if descent.method.name == method and descent.start == record.descents[0].start:
                by_settings.setdefault(descent.method.model_dump_json(), []).append(descent)
    return min(by_settings.values(), key=lambda group: median(d.residuals[-1] for d in group), default=[])


def _exponent(found: Sequence[Costs], activation: str | None, value: Callable[[TheoryRecord], float]) -> Interval:
    by_seed: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for result, record in records(found, activation):
        y = value(record)
        if y > 0:  # leaves out NaN as well
            problem = result.trial.problem
            by_seed.setdefault(result.trial.seed, {}).setdefault(problem.activation, []).append((problem.width, y))
    return slope_interval([[_logs(pairs) for pairs in groups.values()] for groups in by_seed.values()])


def _slope(found: Sequence[Costs], activation: str | None, groups: Callable[[TheoryRecord], Groups]) -> Interval:
    by_seed: dict[int, Groups] = {}
    for result, record in records(found, activation):
        by_seed.setdefault(result.trial.seed, []).extend(groups(record))
    return slope_interval(list(by_seed.values()))


def _pairs(descent: Descent) -> list[tuple[float, float]]:
    """(‖r‖, ‖r⁺‖) of the steps whose result is above rounding."""
    pairs = zip(descent.residuals, descent.residuals[1:], strict=False)
    return [(before, after) for before, after in pairs if after > FLOOR]


def _logs(pairs: Sequence[tuple[float, float]]) -> tuple[FloatArray, FloatArray]:
    logs = np.log(np.asarray(pairs, dtype=float))  # (points, 2)
    return logs[:, 0], logs[:, 1]
