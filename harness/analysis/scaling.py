"""How a cost grows along an axis of a sweep: fitted exponents, and where two costs cross."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..trial import TrialResult
from .aggregate import log_ratios, medians
from .formats import number
from .labels import spelled
from .statistics import CONFIDENCE, FloatArray, Interval

__all__ = ["MIN_SIZES", "SHAPE", "Crossing", "crossover", "exponent", "parameters"]

MIN_SIZES = 3  # fewer points make a line of anything
RESAMPLES = 2_000

# What the number of parameters depends on, and what it stands for where it is the axis.
SHAPE = ("width", "depth")


class Crossing(NamedTuple):
    """Where along an axis a ratio is no more than a level, towards the end of the axis where it is lower.

    Attributes:
        side: "from" this size on, or "up to" this size.
        at: The size with its interval; 0 is below all measured sizes, infinity beyond them.
        smallest: Of the measured sizes.
        largest: Of the measured sizes.
        repeated: Whether the ratio crosses the level more than once between them.
    """

    side: Literal["from", "up to"]
    at: Interval
    smallest: float
    largest: float
    repeated: bool

    def told(self, axis: str) -> str:
        """In words, such as "from width 812 [700, 950] on"."""
        axis = spelled(axis)
        size, low, high = self.at[:3]
        end = " on" if self.side == "from" else ""
        if 0 < size < math.inf:
            words = f"{self.side} {axis} {number(size)} [{self._end(low)}, {self._end(high)}]{end}"
        else:
            holds = (size == 0) == (self.side == "from")
            if holds:
                words = f"at every measured {axis} ({self.smallest:g} to {self.largest:g})"
            elif self.side == "from":
                words = f"beyond the measured range (> {self.largest:g})"
            else:
                words = f"below the measured range (< {self.smallest:g})"
            for edge in (low, high):  # one of them at most lies within
                if 0 < edge < math.inf:
                    words += f"; perhaps {'only ' if holds else ''}{self.side} {number(edge)}{end}"
        return words + ("; crosses more than once" if self.repeated else "")

    def _end(self, size: float) -> str:
        return "below" if size == 0 else "beyond" if math.isinf(size) else number(size)


def parameters(results: Sequence[TrialResult]) -> int | None:
    """How many parameters the model of these results has; None where nothing counted them."""
    return next((result.parameters for result in results if result.parameters is not None), None)


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


def crossover(pairs: Mapping[float, tuple[Sequence[float], Sequence[float]]], level: float = 1.0) -> Crossing | None:
    """Where the median ratio of paired costs, ours over a rival's, crosses a level.

    Between neighbouring sizes the logarithm of the ratio is a straight line in the logarithm of the size. Where one
    neighbour's ratio is infinite or zero, for want of hits of the target, the line's limit puts the crossing at the
    other neighbour.

    Args:
        pairs: Size → costs of ours and of the rival, pair by pair; infinite ones are misses.
        level: > 0.

    Returns:
        The crossing, with a 95% bootstrap interval over the pairs, drawn anew within each size; None where fewer than
        two sizes have pairs.
    """
    logs = {size: values for size, (ours, rivals) in sorted(pairs.items()) if len(values := log_ratios(ours, rivals))}
    logs = {size: values for size, values in logs.items() if not math.isnan(medians(values[None])[0])}
    if len(logs) < 2:
        return None
    generator = np.random.default_rng(0)
    draws = [
        np.concatenate([values[None], values[generator.integers(len(values), size=(RESAMPLES, len(values)))]])
        for values in logs.values()
    ]  # each (1 + resamples, pairs), the sample itself first
    heights = np.stack([medians(drawn) for drawn in draws], axis=1) - math.log(level)  # (1 + resamples, sizes)
    heights = heights[~np.isnan(heights).any(1)]
    sizes = np.log(np.array(list(logs), dtype=float))
    rising = bool(heights[0, -1] > heights[0, 0])
    # A ratio that rises is the mirror image of one that falls.
    places = -_start_below(heights[:, ::-1], -sizes[::-1]) if rising else _start_below(heights, sizes)
    ordered, tail = np.exp(np.sort(places)), (1 - CONFIDENCE) / 2
    low, high = (float(ordered[round(share * (len(ordered) - 1))]) for share in (tail, 1 - tail))
    at = Interval(float(np.exp(places[0])), low, high, len(logs))
    changes = int((np.diff(heights[0] > 0) != 0).sum())
    return Crossing("up to" if rising else "from", at, min(logs), max(logs), changes > 1)


def _start_below(heights: FloatArray, places: FloatArray) -> FloatArray:
    """For each row, from which place on, to the right, it is ≤ 0: −∞ for all of it, ∞ for none of it.

    Args:
        heights: (rows, sizes).
        places: (sizes,), rising.
    """
    above = heights > 0
    last = above.shape[1] - 1 - above[:, ::-1].argmax(1)  # the last place that is above, where there is one
    left = np.minimum(last, above.shape[1] - 2)
    rows = np.arange(len(heights))
    before, after = heights[rows, left], heights[rows, left + 1]
    with np.errstate(invalid="ignore"):
        share = before / (before - after)
    share = np.where(np.isinf(before), np.where(np.isinf(after), 0.5, 1.0), share)
    crossing = places[left] + share * (places[left + 1] - places[left])
    crossing = np.where(last == above.shape[1] - 1, math.inf, crossing)
    return np.asarray(np.where(above.any(1), crossing, -math.inf))
