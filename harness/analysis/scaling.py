"""How a cost grows along an axis of a sweep: fitted exponents, and where two costs cross."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from .statistics import CONFIDENCE, Interval

__all__ = ["MIN_SIZES", "crossover", "exponent"]

MIN_SIZES = 3  # fewer points make a line of anything
RESAMPLES = 2_000


def exponent(costs: Mapping[float, Sequence[float]]) -> Interval:
    """The slope of log median cost against log size, by least squares: cost ∝ size^slope.

    Args:
        costs: Size → repeated costs, positive; infinite ones are misses, and a size whose median is one is left out.

    Returns:
        Slope and 95% bootstrap interval over the repetitions within each size; the size is the number of sizes used.
    """
    samples = {size: np.asarray(values, dtype=float) for size, values in sorted(costs.items()) if len(values)}
    samples = {size: values for size, values in samples.items() if math.isfinite(float(np.median(values)))}
    if len(samples) < MIN_SIZES:
        return Interval(math.nan, math.nan, math.nan, len(samples))
    x = np.log(np.array(list(samples), dtype=float))
    x -= x.mean()
    generator = np.random.default_rng(0)
    medians = np.log([np.median(values) for values in samples.values()])
    draws = np.log(
        [
            np.median(values[generator.integers(len(values), size=(RESAMPLES, len(values)))], axis=1)
            for values in samples.values()
        ]
    )  # (sizes, draws)
    slopes = (x @ draws) / (x @ x)
    slopes = slopes[np.isfinite(slopes)]
    if not len(slopes):
        return Interval(math.nan, math.nan, math.nan, len(samples))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(slopes, [tail, 100 - tail])
    return Interval(float(x @ medians / (x @ x)), float(low), float(high), len(samples))


def crossover(ratios: Mapping[float, float]) -> list[float]:
    """The sizes at which a ratio crosses 1, interpolated on logarithmic axes between neighbours.

    Args:
        ratios: Size → ratio, positive and finite.
    """
    points = sorted(ratios.items())
    crossings = []
    for (size, ratio), (next_size, next_ratio) in pairwise(points):
        before, after = math.log(ratio), math.log(next_ratio)
        if before * after < 0:
            share = before / (before - after)
            crossings.append(math.exp(math.log(size) + share * (math.log(next_size) - math.log(size))))
    return crossings
