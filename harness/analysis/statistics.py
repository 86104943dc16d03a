"""Medians and intervals that keep censored values: a miss is infinite, not absent."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

__all__ = ["MIN_PAIRS", "Interval", "median_interval", "median_ratio", "paired_ratio"]

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
    tail = (1 - CONFIDENCE) / 2
    # Order statistics, not interpolation: half-way between a number and infinity there is nothing.
    low, high = medians[math.floor(tail * (RESAMPLES - 1))], medians[math.ceil((1 - tail) * (RESAMPLES - 1))]
    return Interval(float(_middle(sample)), float(low), float(high), count)


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
