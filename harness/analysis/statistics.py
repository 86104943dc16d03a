"""Medians and intervals that keep censored values: a miss is infinite, not absent."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

__all__ = [
    "MIN_PAIRS", "Interval", "clustered_geometric_mean", "clustered_median", "median_interval", "median_ratio",
    "paired_ratio", "slope_interval",
]  # fmt: skip

RESAMPLES = 10_000
CONFIDENCE = 0.95

# Fewer pairs cannot show a difference at this confidence: that all n fall on one side by chance has probability
# 2^(1−n), which is below 5% from n = 6.
MIN_PAIRS = 6


class Interval(NamedTuple):
    """A median with a bootstrap interval; infinite where misses reach it, NaN where there are no values."""

    median: float
    low: float
    high: float
    size: int

    @property
    def verdict(self) -> str:
        """Of a ratio: "better" wholly below 1, "worse" wholly above, "open" between or with fewer than MIN_PAIRS."""
        if self.size < MIN_PAIRS:
            return "open"
        return "better" if self.high < 1 else "worse" if self.low > 1 else "open"


def median_interval(values: Sequence[float]) -> Interval:
    """The median of ``values`` and its percentile bootstrap interval (95%, 10,000 resamples, fixed seed).

    Infinite values, times of runs that missed their target, count as larger than all others: they push the median and
    the interval up instead of vanishing. With five values the interval is close to their range.
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan, 0)
    sample = np.sort(np.asarray(values, dtype=float))
    count = len(sample)
    chosen = np.sort(np.random.default_rng(0).integers(count, size=(RESAMPLES, count)), axis=1)
    medians = np.sort(_middle(sample[chosen]))
    return Interval(float(_middle(sample)), *_tails(medians), count)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The median of the ratios of pairs, with its interval. A miss over a hit is infinite, a hit over a miss zero;
    pairs that both missed say nothing and are left out (see ``size``).
    """
    ratios = []
    for numerator, denominator in zip(numerators, denominators, strict=True):
        if math.isfinite(denominator) or math.isfinite(numerator):
            ratios.append(_ratio(numerator, denominator))
    return median_interval(ratios)


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The median ratio of paired times, with its BCa bootstrap interval (95%, 10,000 resamples, fixed seed).

    The median is that of log ratios, so that it and its interval are inverted when the sides are swapped. Source of
    BCa: Efron, "Better bootstrap confidence intervals", JASA 82 (1987), as scipy.stats.bootstrap implements it.

    Args:
        numerators: Positive and finite.
        denominators: Of the same length, positive and finite.
    """
    if not numerators:
        return Interval(math.nan, math.nan, math.nan, 0)
    logs = np.log(np.asarray(numerators, dtype=float)) - np.log(np.asarray(denominators, dtype=float))
    middle = float(np.exp(np.median(logs)))
    if np.ptp(logs) == 0 or len(logs) == 1:  # nothing to resample
        return Interval(middle, middle, middle, len(logs))
    low, high = _bca(logs)
    return Interval(middle, math.exp(low), math.exp(high), len(logs))


def clustered_median(clusters: Sequence[Sequence[float]]) -> Interval:
    """The median of all values, with an interval that resamples whole clusters, such as the cells of one seed.

    Values of one cluster share their split and do not count as independent. Infinite values are kept, as in
    ``median_interval``; ``size`` is the number of clusters.
    """
    filled = [np.asarray(cluster, dtype=float) for cluster in clusters if len(cluster)]
    if not filled:
        return Interval(math.nan, math.nan, math.nan, 0)
    longest = max(map(len, filled))
    padded = np.full((len(filled), longest), np.nan)  # NaN fills up short clusters; it sorts behind everything
    for row, cluster in zip(padded, filled, strict=True):
        row[: len(cluster)] = cluster
    draws = np.random.default_rng(0).integers(len(filled), size=(RESAMPLES, len(filled)))
    resampled = padded[draws].reshape(RESAMPLES, -1)  # (resamples, clusters · longest)
    medians = _middle_of_filled(np.sort(resampled, axis=1))
    middle = _middle_of_filled(np.sort(padded.reshape(1, -1), axis=1))[0]
    return Interval(float(middle), *_tails(np.sort(medians)), len(filled))


def clustered_geometric_mean(cells: Sequence[Mapping[int, float]]) -> Interval:
    """The geometric mean over cells of each cell's median ratio, with an interval that resamples whole seeds.

    A median over all ratios at once would describe no cell where cells differ. ``aggregate.geometric_mean_ratio``, of
    reports, draws seeds anew within each cell, and takes a rival's miss as a ratio of 0. An infinite ratio, of a pair
    whose first missed, is larger than all others in its cell; ``size`` is the number of seeds.

    Args:
        cells: For each cell, seed → ratio; a cell without any is left out.
    """
    filled = [cell for cell in cells if cell]
    seeds = sorted({seed for cell in filled for seed in cell})
    if not filled:
        return Interval(math.nan, math.nan, math.nan, 0)
    table = np.array([[cell.get(seed, math.nan) for seed in seeds] for cell in filled])  # (cells, seeds)
    draws = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))

    def means(values: FloatArray) -> FloatArray:  # (cells, resamples, seeds)
        medians = np.stack([_middle_of_filled(np.sort(cell, axis=1)) for cell in values])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.exp(np.log(medians).mean(0)))

    resampled = means(table[:, draws])
    # A resample may hold none of a cell's seeds: it says nothing.
    return Interval(float(means(table[:, None])[0]), *_tails(np.sort(resampled[~np.isnan(resampled)])), len(seeds))


def _middle_of_filled(rows: FloatArray) -> FloatArray:
    """The median of each sorted row, of what is no NaN; the upper middle where that is infinite."""
    counts = (~np.isnan(rows)).sum(1, keepdims=True)
    low, high = (np.take_along_axis(rows, index, 1)[:, 0] for index in ((counts - 1) // 2, counts // 2))
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(high), high, (low + high) / 2)


def slope_interval(clusters: Sequence[Sequence[tuple[FloatArray, FloatArray]]]) -> Interval:
    """The least-squares slope of y on x with an intercept for every group, its interval resampling whole clusters.

    Args:
        clusters: Such as seeds; each holds groups (x, y) of equal length that share an intercept.

    Returns:
        The slope; NaN where no group has two different x. ``size`` is the number of clusters that contribute.
    """
    sums = np.array([np.sum([_products(x, y) for x, y in groups], axis=0) for groups in clusters if groups])
    sums = sums.reshape(-1, 2)  # one row a cluster, also where there is none
    sums = sums[sums[:, 1] > 0]
    if not len(sums):
        return Interval(math.nan, math.nan, math.nan, 0)
    draws = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    resampled = sums[draws].sum(1)  # (resamples, 2)
    slopes = np.sort(resampled[:, 0] / resampled[:, 1])
    total = sums.sum(0)
    return Interval(float(total[0] / total[1]), *_tails(slopes), len(sums))


def _products(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Sxy and Sxx of one group."""
    x = x - x.mean()
    return float(x @ (y - y.mean())), float(x @ x)


def _tails(ordered: FloatArray) -> tuple[float, float]:
    """The ends of the percentile interval, as order statistics: half-way to infinity there is nothing."""
    tail = (1 - CONFIDENCE) / 2
    last = len(ordered) - 1
    return float(ordered[math.floor(tail * last)]), float(ordered[math.ceil((1 - tail) * last)])


def _bca(values: FloatArray) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        for method in ("BCa", "percentile"):  # many equal values leave BCa without an answer
            interval = bootstrap(
                (values,), np.median, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method=method, rng=0
            ).confidence_interval
            if math.isfinite(interval.low) and math.isfinite(interval.high):
                break
    return float(interval.low), float(interval.high)


def _ratio(numerator: float, denominator: float) -> float:
    if math.isinf(denominator):
        return 0.0
    if denominator == 0:  # a target met before training
        return 1.0 if numerator == 0 else math.inf
    return numerator / denominator


def _middle(rows: FloatArray) -> FloatArray:
    """The median along the last, sorted axis; the upper one where two finite middles do not exist."""
    count = rows.shape[-1]
    low, high = rows[..., (count - 1) // 2], rows[..., count // 2]
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(high), high, (low + high) / 2)
