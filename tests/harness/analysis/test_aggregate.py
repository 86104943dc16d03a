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


def _powers(exponent: float, at: float, noise: float = 0.0) -> dict[float, tuple[list[float], list[float]]]:
    """Pairs whose ratio is (size/at)^exponent, at four sizes."""
    generator = np.random.default_rng(3)
    pairs = {}
    for size in (64.0, 256.0, 1024.0, 2048.0):
        rivals = generator.lognormal(sigma=0.5, size=30)
        ours = rivals * (size / at) ** exponent * generator.lognormal(sigma=noise, size=30)
        pairs[size] = (ours.tolist(), rivals.tolist())
    return pairs


@pytest.mark.parametrize(("exponent", "side"), [(-0.5, "from"), (0.5, "up to")])
def test_a_planted_crossing_is_found(exponent: float, side: str) -> None:
    # A power law is a straight line on logarithmic axes, so that the interpolation is exact.
    exact = crossover(_powers(exponent, at=400.0))
    assert exact is not None
    assert exact.side == side
    assert exact.at[:3] == pytest.approx((400.0, 400.0, 400.0))
    # (s/400)^±½ = 1.25
    higher = crossover(_powers(exponent, at=400.0), level=1.25)
    assert higher is not None
    assert higher.at.median == pytest.approx(400.0 * 1.25 ** (1 / exponent))
    noisy = crossover(_powers(exponent, at=400.0, noise=0.2))
    assert noisy is not None
    assert noisy.at.low < 400.0 < noisy.at.high
    assert 200.0 < noisy.at.low < noisy.at.high < 800.0


def test_crossings_outside_of_what_was_measured() -> None:
    found = [crossover(_powers(-0.5, at)) for at in (10.0, 1e4)] + [crossover(_powers(0.5, at)) for at in (10.0, 1e4)]
    assert [crossing.at.median for crossing in found if crossing] == [0.0, INF, 0.0, INF]
    assert [crossing.told("batch_size") for crossing in found if crossing] == [
        "at every measured batch size (64 to 2048)",
        "beyond the measured range (> 2048)",
        "below the measured range (< 64)",
        "at every measured batch size (64 to 2048)",
    ]
    assert crossover({64: ([1.0], [2.0])}) is None
    assert crossover({64: ([1.0], [2.0]), 128: ([INF], [INF])}) is None  # both missed: nothing is known there


def test_a_crossing_near_the_edge_says_where_its_interval_ends() -> None:
    pairs = {64.0: ([3.0] * 9 + [1.0] * 8, [1.01] * 17), 256.0: ([0.5] * 17, [1.0] * 17)}
    crossing = crossover(pairs)
    assert crossing is not None
    assert crossing.at.low == 0
    assert crossing.told("width").startswith("from width ")
    assert "[below, " in crossing.told("width")
    turned = crossover({64.0: ([1.0] * 9 + [3.0] * 8, [1.01] * 17), 256.0: pairs[256.0]})
    assert turned is not None
    assert turned.told("width").startswith("at every measured width (64 to 256); perhaps only from ")


def test_misses_and_repeated_crossings() -> None:
    # GGN misses at 16, so that all that is known is that it is no slower from 64 on.
    missed = crossover({16: ([INF] * 3, [1.0] * 3), 64: ([0.5] * 3, [1.0] * 3), 256: ([0.4] * 3, [INF] * 3)})
    assert missed is not None
    assert missed.at.median == pytest.approx(64.0)
    twice = crossover({16: ([0.5], [1.0]), 64: ([2.0], [1.0]), 256: ([0.25], [1.0])})
    assert twice is not None
    assert twice.repeated
    assert twice.at.median == pytest.approx(64 * 4 ** (1 / 3))  # ln 2 / (ln 2 + ln 4) of the way
    assert twice.told("width").endswith("on; crosses more than once")
