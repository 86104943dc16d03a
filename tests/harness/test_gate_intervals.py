"""The gate's statistics against scipy's, and against truths that are known."""

import numpy as np
import pytest
from scipy import stats

from harness.gate.intervals import effect, holm


def _ratios(seed: int, size: int, shift: float = 0.0) -> tuple[list[float], list[float]]:
    """Seconds of two sides that share a heavy-tailed disturbance; the first is exp(shift) times the second."""
    generator = np.random.default_rng(seed)
    shared = 1 + generator.pareto(2.0, size)
    first = shared * np.exp(shift + 0.05 * generator.standard_t(3, size))
    return first.tolist(), (shared * np.exp(0.05 * generator.standard_t(3, size))).tolist()


@pytest.mark.parametrize(("seed", "size"), [(0, 30), (1, 31), (2, 50), (3, 101)])
def test_the_interval_is_scipys(seed: int, size: int) -> None:
    first, second = _ratios(seed, size, 0.1)
    logs = np.log(np.array(first) / np.array(second))
    theirs = stats.bootstrap((logs,), np.median, method="BCa", n_resamples=10_000, rng=1).confidence_interval
    ours = effect(first, second)
    assert ours.ratio == pytest.approx(np.exp(np.median(logs)))
    width = theirs.high - theirs.low
    assert np.log(ours.low) == pytest.approx(theirs.low, abs=0.1 * width)
    assert np.log(ours.high) == pytest.approx(theirs.high, abs=0.1 * width)


@pytest.mark.parametrize("seed", range(6))
def test_the_p_value_is_the_level_at_which_the_interval_touches_no_change(seed: int) -> None:
    first, second = _ratios(seed, 40, 0.02)
    logs = np.log(np.array(first) / np.array(second))
    p = effect(first, second).p
    assert 0.001 < p < 0.999
    interval = stats.bootstrap(
        (logs,), np.median, method="BCa", n_resamples=20_000, rng=1, confidence_level=1 - p
    ).confidence_interval
    whole = stats.bootstrap((logs,), np.median, method="BCa", n_resamples=20_000, rng=1).confidence_interval
    nearest = min(abs(interval.low), abs(interval.high))
    assert nearest < 0.1 * (whole.high - whole.low)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """150 samples of 30 with a true ratio of 1.1; a 95% interval of a median is a little conservative."""
    held = 0
    for seed in range(150):
        first, second = _ratios(1000 + seed, 30, np.log(1.1))
        found = effect(first, second)
        held += found.low <= 1.1 <= found.high
    assert 0.90 < held / 150 <= 1


def test_equal_values_are_a_point() -> None:
    assert effect([3.0] * 30, [2.0] * 30)[:3] == pytest.approx((1.5, 1.5, 1.5))
    assert effect([3.0] * 30, [2.0] * 30).p < 0.001
    assert effect([2.0] * 30, [2.0] * 30).p == 1


def test_holm_by_hand() -> None:
    # 3·0.01, then 2·0.02 (at least the one before), then 0.9.
    assert holm([0.9, 0.01, 0.02]) == pytest.approx([0.9, 0.03, 0.04])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
