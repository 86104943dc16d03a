"""Intervals and ratios: coverage, censoring, pairing."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.analysis.statistics import (
    clustered_geometric_mean,
    clustered_median,
    median_interval,
    median_ratio,
    paired_ratio,
    slope_interval,
)

INF = math.inf


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    """300 samples of 20 from a log-normal, whose median is 1.

    The percentile bootstrap of a median is close to 95% at this size; outside [0.90, 0.99] the code is wrong.
    """
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        interval = median_interval(generator.lognormal(size=20).tolist())
        covered += interval.low <= 1 <= interval.high
    assert 0.90 < covered / 300 < 0.99


def test_it_agrees_with_scipy_on_finite_values() -> None:
    values = np.random.default_rng(2).gamma(2.0, size=31)
    ours = median_interval(values.tolist())
    theirs = stats.bootstrap((values,), np.median, method="percentile", n_resamples=10_000, rng=0).confidence_interval
    assert ours.median == np.median(values)
    assert ours.low == pytest.approx(theirs.low, rel=0.03)
    assert ours.high == pytest.approx(theirs.high, rel=0.03)


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([1.0, 2.0, 3.0], 2.0),
        ([1.0, 2.0, 3.0, 4.0], 2.5),
        ([1.0, 2.0, INF], 2.0),
        ([1.0, INF, INF], INF),
        ([1.0, 2.0, INF, INF], INF),  # half of them missed: so does the median
        ([INF, INF], INF),
        ([7.0], 7.0),
    ],
)
def test_medians_with_misses(values: list[float], median: float) -> None:
    interval = median_interval(values)
    assert interval.median == median
    assert interval.low <= interval.median <= interval.high
    assert interval.size == len(values)


def test_a_miss_raises_the_upper_end() -> None:
    assert math.isfinite(median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).high)
    assert median_interval([1.0, 2.0, 3.0, 4.0, INF]).high == INF


def test_nothing_is_nothing() -> None:
    interval = median_interval([])
    assert interval.size == 0
    assert math.isnan(interval.median)


def test_pairs_cancel_what_they_share() -> None:
    """Seeds that differ by a factor of a hundred, methods by a factor of two: the ratio's interval is a point."""
    shared = [1.0, 100.0, 7.0, 30.0]
    interval = paired_ratio([2 * s for s in shared], shared)
    assert interval == (2.0, 2.0, 2.0, 4)


def test_ratios_of_misses() -> None:
    assert paired_ratio([INF], [3.0]).median == INF
    assert paired_ratio([3.0], [INF]).median == 0.0
    both = paired_ratio([INF, 2.0], [INF, 4.0])
    assert (both.median, both.size) == (0.5, 1)
    assert paired_ratio([INF], [INF]).size == 0
    assert paired_ratio([0.0], [0.0]).median == 1.0  # both met the target before training
    assert paired_ratio([2.0], [0.0]).median == INF


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=9).tolist()
    assert median_interval(values) == median_interval(values[::-1])


def test_the_interval_of_paired_times_covers_and_turns_around() -> None:
    """300 samples of 30 pairs whose log ratios have median log 2, skewed; 95% nominal."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        rivals = generator.lognormal(sigma=0.5, size=30)
        ours = 2 * rivals * generator.gamma(2.0, size=30) / stats.gamma(2.0).median()
        ratio = median_ratio(ours.tolist(), rivals.tolist())
        covered += ratio.low <= 2 <= ratio.high
    assert 0.90 < covered / 300 < 0.99
    turned = median_ratio(rivals.tolist(), ours.tolist())
    assert 1 / turned.median == pytest.approx(ratio.median)
    assert (1 / turned.high, 1 / turned.low) == pytest.approx((ratio.low, ratio.high), rel=0.05)


def test_paired_times_without_spread_or_without_values() -> None:
    assert median_ratio([2.0] * 9, [1.0] * 9) == (2.0, 2.0, 2.0, 9)
    assert median_ratio([], []).size == 0
    mostly_equal = median_ratio([2.0] * 29 + [3.0], [1.0] * 30)  # BCa has no answer here
    assert mostly_equal[:3] == pytest.approx((2.0, 2.0, 2.0))


def test_clusters_are_resampled_as_a_whole() -> None:
    """Values that are alike within a cluster are as uncertain as one value a cluster."""
    draw = np.random.default_rng(1)
    single = draw.normal(size=12)
    alike = clustered_median([[value] * 5 for value in single])
    assert alike[:3] == pytest.approx(median_interval(list(single))[:3])
    assert alike.size == 12
    apart = clustered_median([list(draw.normal(size=5)) for _ in range(12)])
    assert apart.high - apart.low < alike.high - alike.low
    uneven = clustered_median([[1.0], [2.0, math.inf, math.inf], [4.0]])
    assert uneven.median == 4.0
    assert uneven.high == math.inf
    assert clustered_median([[], []]).size == 0


def test_the_geometric_mean_of_cells_lies_where_their_medians_are() -> None:
    """Two cells far from each other: the median of all would fall in between, where nothing is, or jump."""
    seeds = range(11)
    fast, slow = {s: 0.2 + 0.001 * s for s in seeds}, {s: 0.45 + 0.001 * s for s in seeds}
    found = clustered_geometric_mean([fast, slow])
    assert found.median == pytest.approx(math.sqrt(0.205 * 0.455))
    assert found.low < found.median < found.high
    assert found.size == 11
    one = clustered_geometric_mean([fast])
    assert one[:3] == pytest.approx(median_interval(list(fast.values()))[:3], rel=1e-3)


def test_the_geometric_mean_resamples_whole_seeds() -> None:
    draw = np.random.default_rng(2)
    ratios = {seed: float(value) for seed, value in enumerate(draw.lognormal(size=15))}
    alike, alone = clustered_geometric_mean([ratios] * 4), clustered_geometric_mean([ratios])
    assert alike[:3] == pytest.approx(alone[:3])  # four copies are no more than one
    apart = clustered_geometric_mean([dict(enumerate(map(float, draw.lognormal(size=15)))) for _ in range(4)])
    assert math.log(apart.high / apart.low) < math.log(alone.high / alone.low)


def test_the_geometric_mean_of_misses_gaps_and_nothing() -> None:
    missed = clustered_geometric_mean([{0: math.inf, 1: math.inf, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}])
    assert missed.median == math.inf
    gap = clustered_geometric_mean([{0: 2.0, 1: 2.0}, {1: 8.0, 2: 8.0}, {}])
    assert gap == (pytest.approx(4.0), pytest.approx(4.0), pytest.approx(4.0), 3)
    assert clustered_geometric_mean([{}, {}]).size == 0
    assert math.isnan(clustered_geometric_mean([]).median)


def test_a_slope_with_an_intercept_for_each_group() -> None:
    draw = np.random.default_rng(2)
    x = np.arange(5.0)
    clusters = [[(x, 2 * x + draw.normal() * 10 + 0.05 * draw.normal(size=5)) for _ in range(3)] for _ in range(8)]
    slope = slope_interval(clusters)
    assert slope.low < 2 < slope.high
    assert slope.high - slope.low < 0.05
    assert slope.size == 8
    assert math.isnan(slope_interval([[(np.ones(3), x[:3])]]).median)
