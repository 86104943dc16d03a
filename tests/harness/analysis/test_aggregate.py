"""Sums over cells, and growth along an axis: closed forms, censoring, coverage."""

import math

import numpy as np
import pytest

from harness.analysis.aggregate import geometric_mean_ratio, performance_profile, probability_of_improvement
from harness.analysis.scaling import crossover, exponent

INF = math.inf


def test_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    cells = [([1.0, 2.0, INF, 4.0], [2.0, 2.0, 3.0, INF]), ([1.0], [2.0])]
    found = probability_of_improvement(cells)
    assert found.median == pytest.approx(((1 + 0.5 + 0 + 1) / 4 + 1) / 2)
    assert found.size == 5
    assert 0 <= found.low <= found.median <= found.high <= 1
    assert probability_of_improvement([([INF], [INF])]).median == 0.5
    assert probability_of_improvement([]).size == 0


def test_the_probability_turns_around_with_the_sides() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=20).tolist(), generator.normal(size=20).tolist()
    assert probability_of_improvement([(a, b)]).median == pytest.approx(1 - probability_of_improvement([(b, a)]).median)


def test_the_geometric_mean_of_known_ratios() -> None:
    cells = [([2.0, 2.0, 2.0], [1.0, 1.0, 1.0]), ([1.0, 1.0, 1.0], [8.0, 8.0, 8.0])]
    assert geometric_mean_ratio(cells)[:3] == pytest.approx((0.5, 0.5, 0.5))  # √(2 · 1/8)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([([INF, INF, 1.0], [1.0, 1.0, 1.0])], INF),
        ([([1.0, 1.0, 1.0], [INF, INF, 1.0])], 0.0),
        ([([INF, 1.0], [INF, 2.0])], 0.5),  # the pair that both missed says nothing
        ([([INF], [INF])], math.nan),
        ([([INF], [1.0]), ([1.0], [INF])], math.nan),
    ],
)
def test_the_geometric_mean_with_misses(cells: list[tuple[list[float], list[float]]], expected: float) -> None:
    assert geometric_mean_ratio(cells).median == pytest.approx(expected, nan_ok=True)


def test_the_interval_of_the_geometric_mean_covers() -> None:
    """200 sweeps of 4 cells with 12 seeds; log ratios of median log 0.7."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        cells = []
        for _ in range(4):
            rivals = generator.lognormal(size=12)
            cells.append(((0.7 * rivals * generator.lognormal(sigma=0.4, size=12)).tolist(), rivals.tolist()))
        found = geometric_mean_ratio(cells)
        covered += found.low <= 0.7 <= found.high
    assert covered / 200 > 0.9


def test_performance_profiles() -> None:
    profile = performance_profile({"a": [1.0, 2.0, INF, 0.0], "b": [2.0, 1.0, INF, 0.0]}, [1.0, 2.0, 4.0])
    assert profile == {"a": [0.5, 0.75, 0.75], "b": [0.5, 0.75, 0.75]}
    assert performance_profile({"a": [1.0, 1.0], "b": [3.0, 5.0]}, [1.0, 3.0, 4.0])["b"] == [0.0, 0.5, 0.5]


def test_exponents_of_power_laws() -> None:
    generator = np.random.default_rng(2)
    costs = {size: (3 * size**1.7 * generator.lognormal(sigma=0.05, size=30)).tolist() for size in (16, 64, 256, 1024)}
    found = exponent(costs)
    assert found.low <= 1.7 <= found.high
    assert found.high - found.low < 0.1
    assert found.size == 4
    exact = exponent({2: [4.0], 4: [16.0], 8: [64.0]})
    assert exact[:3] == pytest.approx((2.0, 2.0, 2.0))


def test_sizes_that_missed_are_left_out() -> None:
    found = exponent({2: [4.0], 4: [16.0], 8: [64.0], 16: [INF, INF, 1.0]})
    assert found[:3] == pytest.approx((2.0, 2.0, 2.0))
    assert math.isnan(exponent({2: [4.0], 4: [16.0]}).median)
    assert math.isnan(exponent({2: [INF], 4: [INF], 8: [INF]}).median)


def test_crossings_on_logarithmic_axes() -> None:
    assert crossover({16: 4.0, 64: 2.0, 256: 0.5}) == pytest.approx([128.0])
    assert crossover({16: 2.0, 64: 0.5, 256: 2.0}) == pytest.approx([32.0, 128.0])
    assert crossover({16: 2.0, 64: 1.5}) == []
