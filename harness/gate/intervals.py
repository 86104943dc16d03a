"""The median of log-ratios: its bootstrap interval, its p-value, and Holm's correction over a suite.

The interval's ends are quantiles of the resampled medians. The corrections of BCa (B. Efron, "Better Bootstrap
Confidence Intervals", JASA 82, 1987) vanish for a median: as many resampled medians lie below it as above, so there is
no bias, and its jackknife takes two values, equally often, so there is no acceleration; the tests hold the interval
against scipy's BCa. The p-value is the level at which the interval just touches "no change", from the same resamples.
Holm: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statist. 6 (1979).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Effect", "effect", "holm"]

RESAMPLES = 10_000
CONFIDENCE = 0.95


class Effect(NamedTuple):
    """The median of ratios, on the ratio's own scale: 1 is no change.

    Attributes:
        ratio: The median.
        low: Lower end of the 95% interval.
        high: Upper end.
        p: Two-sided, for "the median is 1".
        size: How many pairs.
    """

    ratio: float
    low: float
    high: float
    p: float
    size: int


def effect(numerators: Sequence[float], denominators: Sequence[float]) -> Effect:
    """The median ratio of pairs, with its interval (10,000 resamples of pairs, fixed seed).

    Args:
        numerators: Positive.
        denominators: Positive, as many.
    """
    logs = np.log(np.asarray(numerators, dtype=float) / np.asarray(denominators, dtype=float))
    n = len(logs)
    observed = float(np.median(logs))
    chosen = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    medians = np.median(logs[chosen], axis=1)  # (resamples,)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    level = _share_below(medians, 0.0)
    return Effect(math.exp(observed), math.exp(low), math.exp(high), 2 * min(level, 1 - level), n)


def _share_below(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], point: float) -> float:
    """The share of ``values`` below ``point``, ties counted half, never 0 or 1: the resamples are finite."""
    share = (np.count_nonzero(values < point) + np.count_nonzero(values <= point)) / (2 * len(values))
    return float(np.clip(share, 0.5 / len(values), 1 - 0.5 / len(values)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: reject those below α, and the chance of any false rejection stays below α."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
