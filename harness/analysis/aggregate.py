"""Sums up a comparison over all cells: how often, by how much, and within which factor of the best.

A pair is one seed of one cell, run by both methods. Misses are infinite throughout, and count.
Sources: probability of improvement, Agarwal et al. 2021, arXiv 2108.13264; performance profiles, Dolan and Moré 2002,
doi 10.1007/s101070100263, to a factor of 4 as in AlgoPerf, Dahl et al. 2023, arXiv 2306.07179.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .statistics import CONFIDENCE, FloatArray, Interval

__all__ = ["geometric_mean_ratio", "log_ratios", "medians", "performance_profile", "probability_of_improvement"]

RESAMPLES = 4_000

# One cell's values: ours and the rival's, seed by seed.
Pairs = tuple[Sequence[float], Sequence[float]]


def probability_of_improvement(cells: Sequence[Pairs]) -> Interval:
    """How likely ours is lower than the rival's on a seed, averaged over the cells; ties count half.

    Returns:
        Estimate and 95% bootstrap interval over seeds, drawn anew within each cell; the size is the number of pairs.
    """
    wins = [_wins(ours, rivals) for ours, rivals in cells if len(ours)]
    return _resampled(wins, _mean)


def geometric_mean_ratio(cells: Sequence[Pairs]) -> Interval:
    """The geometric mean over the cells of the median ratio, ours over the rival's.

    Pairs that both missed say nothing and are left out. Infinite where the median pair of a cell missed on our side
    only, zero where it did on the rival's, and unknown (NaN) where both occur.

    Returns:
        Estimate and 95% bootstrap interval over seeds, drawn anew within each cell; the size is the number of pairs.
    """
    logs = [values for ours, rivals in cells if len(values := log_ratios(ours, rivals))]
    found = _resampled(logs, medians)
    return Interval(_exp(found.median), _exp(found.low), _exp(found.high), found.size)


def performance_profile(methods: Mapping[str, Sequence[float]], factors: Sequence[float]) -> dict[str, list[float]]:
    """For each method the share of instances that it solves within a factor of the best method's cost.

    Args:
        methods: For each method its costs, instance by instance, in the same order.
        factors: Each ≥ 1.
    """
    costs = np.array(list(methods.values()), dtype=float)  # (methods, instances)
    best = costs.min(0, keepdims=True)
    with np.errstate(invalid="ignore"):
        ratios = np.where(np.isfinite(costs), costs / np.where(best > 0, best, 1.0), math.inf)
    ratios = np.where((best == 0) & (costs == 0), 1.0, ratios)
    return {
        name: [float((row <= factor).mean()) for factor in factors] for name, row in zip(methods, ratios, strict=True)
    }


def log_ratios(ours: Sequence[float], rivals: Sequence[float]) -> FloatArray:
    """Of pairs, ours over the rival's; infinite where one of them missed, and left out where both did."""
    a, b = np.asarray(ours, dtype=float), np.asarray(rivals, dtype=float)
    said = np.isfinite(a) | np.isfinite(b)
    with np.errstate(divide="ignore"):
        return np.where(a[said] == b[said], 0.0, np.log(a[said]) - np.log(b[said]))


def medians(draws: FloatArray) -> FloatArray:
    """Along the last axis; the mean of the two middles, or the infinite one of them."""
    ordered = np.sort(draws, axis=-1)
    count = ordered.shape[-1]
    with np.errstate(invalid="ignore"):
        return np.asarray((ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2)


def _wins(ours: Sequence[float], rivals: Sequence[float]) -> FloatArray:
    a, b = np.asarray(ours, dtype=float), np.asarray(rivals, dtype=float)
    return np.where(a < b, 1.0, np.where(a == b, 0.5, 0.0))


def _resampled(cells: Sequence[FloatArray], estimate: Callable[[FloatArray], FloatArray]) -> Interval:
    """The mean over cells of an estimate along the last axis, with its interval.

    Args:
        cells: One entry a pair, for each cell.
        estimate: (draws, pairs) -> (draws,).
    """
    if not cells:
        return Interval(math.nan, math.nan, math.nan, 0)
    generator = np.random.default_rng(0)
    draws = [estimate(values[generator.integers(len(values), size=(RESAMPLES, len(values)))]) for values in cells]
    with np.errstate(invalid="ignore"):  # ∞ − ∞: unknown
        means = np.sort(np.mean(draws, axis=0))
        middle = float(np.mean([estimate(values[None])[0] for values in cells]))
    tail = (1 - CONFIDENCE) / 2
    # Order statistics, not interpolation: half-way between a number and infinity there is nothing.
    low, high = means[math.floor(tail * (RESAMPLES - 1))], means[math.ceil((1 - tail) * (RESAMPLES - 1))]
    return Interval(middle, float(low), float(high), sum(len(values) for values in cells))


def _mean(draws: FloatArray) -> FloatArray:
    return np.asarray(draws.mean(-1))


def _exp(value: float) -> float:
    return math.exp(value) if value < math.inf else value
