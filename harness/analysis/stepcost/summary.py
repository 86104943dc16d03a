"""What a step of GGN costs beside its rivals', cell by cell."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from ...methods import MethodConfig
from ...stepcost_suite import StepCostSuite
from ...sweep import Costs
from ...trial import Outcome, StepCosts
from ..statistics import Interval, median_ratio

__all__ = ["LEAST_EFFECT", "CellSummary", "Ratio", "pooled", "summaries"]

LEAST_EFFECT = 0.05  # relative; what is smaller is not worth a verdict, whatever its interval
MOST_NOISE = 0.15  # relative; where equal code may differ by more, no verdict is given


class Ratio(NamedTuple):
    """The first method's step over a rival's.

    Attributes:
        rival: The rival.
        value: Median of the ratios within rounds, with its interval.
        verdict: "better", "worse", or "open" where the interval holds 1 or the effect could be noise.
    """

    rival: MethodConfig
    value: Interval
    verdict: str


class CellSummary(NamedTuple):
    """One cell's step costs.

    Attributes:
        costs: The cell and its results.
        outcomes: How many trials ended which way.
        milliseconds: Median of a step, for each method of the suite.
        memory_mib: Peak over data, model and batch, for each method; NaN where it could not be measured.
        again: The first method over itself: what differs from 1 is noise.
        noisy: Whether the machine was too noisy for a verdict: ``again`` shows a difference where there is none, or its
            interval is too wide to rule out one.
        ratios: The first method over each rival.
        gradient_milliseconds: Median of one gradient.
        phases: Medians in units of one gradient, by name.
        step_error: The largest relative error of GGN's step; NaN without one.
    """

    costs: Costs
    outcomes: dict[Outcome, int]
    milliseconds: list[float]
    memory_mib: list[float]
    again: Interval
    noisy: bool
    ratios: list[Ratio]
    gradient_milliseconds: float
    phases: dict[str, float]
    step_error: float


def summaries(suite: StepCostSuite, found: Sequence[Costs]) -> list[CellSummary]:
    """One summary a cell, in the suite's order."""
    return [_summary(suite, costs) for costs in found]


def pooled(measured: Sequence[StepCosts], index: int) -> list[float]:
    """The rounds of all processes, one after the other: pairs stay pairs."""
    return [seconds for costs in measured for seconds in costs.step[index]]


def _summary(suite: StepCostSuite, costs: Costs) -> CellSummary:
    measured = [result.costs for result in costs.results if result.costs is not None]
    outcomes: dict[Outcome, int] = {}
    for result in costs.results:
        outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
    ours, again, gradient = pooled(measured, 0), [x for c in measured for x in c.again], _gradient(measured)
    noise = median_ratio(ours, again)
    spread = max(abs(math.log(noise.low)), abs(math.log(noise.high))) if noise.size else math.nan
    noisy = _differs(noise, LEAST_EFFECT) or spread > math.log1p(MOST_NOISE)
    threshold = max(LEAST_EFFECT, 2 * spread) if noise.size else LEAST_EFFECT
    ratios = []
    for index, rival in enumerate(suite.methods[1:], start=1):
        value = median_ratio(ours, pooled(measured, index))
        clear = not noisy and _differs(value, threshold)
        ratios.append(Ratio(rival, value, value.verdict if clear else "open"))
    return CellSummary(
        costs=costs,
        outcomes=outcomes,
        milliseconds=[1e3 * _median(pooled(measured, index)) for index in range(len(suite.methods))],
        memory_mib=[_largest(measured, index) for index in range(len(suite.methods))],
        again=noise,
        noisy=noisy,
        ratios=ratios,
        gradient_milliseconds=1e3 * _median(gradient),
        phases={
            name: _median([x for c in measured for x in c.phases[name]]) / _median(gradient)
            for name in (measured[0].phases if measured else {})
        },
        step_error=max((c.step_error for c in measured if c.step_error is not None), default=math.nan),
    )


def _differs(ratio: Interval, threshold: float) -> bool:
    """Whether the interval leaves out 1, by an effect above the threshold."""
    return ratio.verdict != "open" and abs(math.log(ratio.median)) > math.log1p(threshold)


def _gradient(measured: Sequence[StepCosts]) -> list[float]:
    return [seconds for costs in measured for seconds in costs.gradient]


def _median(values: Sequence[float]) -> float:
    return median(values) if values else math.nan


def _largest(measured: Sequence[StepCosts], index: int) -> float:
    return max((m for costs in measured if (m := costs.memory_mib[index]) is not None), default=math.nan)
