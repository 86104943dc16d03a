"""The peers benchmark's clocks, ratios and peak memory."""

from collections.abc import Callable

import numpy as np
import pytest

from suites.peers.measure import Budget, Memory, interleave, settled_load
from suites.peers.record import Record, Row
from suites.peers.statistics import least_ratio, ratio, rival_ratio, wrong
from suites.peers.traps import FLOAT64


class Clock:
    """A clock that calls move by hand."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, seconds: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.log += name
            self.now += seconds()

        return call


def test_ratios_are_paired_so_that_a_drifting_machine_does_not_matter() -> None:
    clock = Clock()
    pace = lambda: 1 + clock.now / 100  # noqa: E731  the machine gets slower and slower
    calls = {"peer": clock.call("p", lambda: 0.003 * pace()), "sgd": clock.call("s", lambda: 0.001 * pace())}
    seconds = interleave(calls, Budget(seconds=100, least=5, most=50, limit=1), clock)
    assert seconds["peer"][-1] > 1.001 * seconds["peer"][0]
    interval = ratio(Row("ours", "mlp-1", "gram", seconds=seconds))
    assert interval is not None
    assert interval.size == 50
    assert interval.median == pytest.approx(3, rel=1e-3)
    assert interval.low <= interval.median <= interval.high


def test_short_calls_warm_their_own_caches_and_the_order_is_random() -> None:
    clock = Clock()
    calls = {"a": clock.call("a", lambda: 0.1), "b": clock.call("b", lambda: 0.1), "c": clock.call("c", lambda: 1.5)}
    interleave(calls, Budget(seconds=1e9, least=1, most=30, limit=1), clock)
    log = clock.log[2 * len(calls) :]
    rounds = {log[5 * i : 5 * i + 5] for i in range(30)}
    assert len(log) == 30 * 5
    assert rounds == {"aabbc", "aacbb", "bbaac", "bbcaa", "caabb", "cbbaa"}


def test_beside_a_long_call_short_ones_are_timed_more_often_and_their_median_counts() -> None:
    clock = Clock()
    times = iter([0.1, 0.1, 9.0, *[0.1, 0.3, 0.2] * 5])  # warm-up, first, untimed, then three a round
    calls = {"peer": clock.call("p", lambda: 3.9), "sgd": clock.call("s", lambda: next(times))}
    seconds = interleave(calls, Budget(seconds=0, least=1, most=1, limit=1), clock)
    assert clock.log.count("s") == 2 + 1 + 3
    assert seconds["peer"] == [pytest.approx(3.9)]
    assert seconds["sgd"] == [pytest.approx(0.2)]
    clock.log = ""
    calls["sgd"] = clock.call("s", lambda: 0.001)
    interleave(calls, Budget(seconds=0, least=1, most=1, limit=1), clock)
    assert clock.log.count("s") == 2 + 1 + 20


@pytest.mark.parametrize(("patience", "waited", "load"), [(0, 0, 1.3), (5, 5, 0.8), (120, 10, 0.4)])
def test_a_busy_machine_is_given_time_to_come_to_rest(
    patience: float, waited: float, load: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("suites.peers.measure.os.getloadavg", lambda: ([1.3, 0.8, 0.4][len(slept)], 0, 0))
    monkeypatch.setattr("suites.peers.measure.time.sleep", slept.append)
    assert settled_load(patience) == load
    assert sum(slept) == waited


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (8.5, 9), (1e9, 20)])
def test_the_budget_ends_the_rounds(seconds: float, rounds: int) -> None:
    clock = Clock()
    budget = Budget(seconds=seconds, least=5, most=20, limit=1)
    result = interleave({"peer": clock.call("p", lambda: 1.0)}, budget, clock)
    assert result == {"peer": [1.0] * rounds}


def test_minima_are_left_where_most_rounds_were_disturbed() -> None:
    seconds = {"peer": [9.0, 3.0, 7.0], "sgd": [5.0, 8.0, 2.0]}
    assert least_ratio(Row("ours", "mlp-1", "gram", seconds=seconds)) == 1.5
    assert least_ratio(Row("ours", "mlp-1", "gram")) is None


def test_a_rivals_ratio_comes_from_its_own_pairs() -> None:
    slow = Row("ours", "mlp-1", "step", seconds={"peer": [1.0], "sgd": [2.0, 4.0], "adam": [3.0, 6.0]})
    interval = rival_ratio(Record({}, {}, {}, [Row("ours", "mlp-1", "gram"), slow], []), "mlp-1", "adam")
    assert interval is not None
    assert interval.median == 1.5
    assert rival_ratio(Record({}, {}, {}, [slow], []), "mlp-10", "adam") is None
    assert rival_ratio(Record({}, {}, {}, [slow], []), "mlp-1", "adam-fused") is None
    in_jax = Row("somax", "mlp-1", "step", seconds=slow.seconds)
    assert rival_ratio(Record({}, {}, {}, [in_jax], []), "mlp-1", "adam") is None


@pytest.mark.parametrize(
    ("workload", "error", "verdict"),
    [
        ("tied Linears", 0.04, True),
        ("tied Linears", 1e-3, False),
        ("tied Linears", float("nan"), True),
        ("tied Linears", None, False),
        (FLOAT64, 1e-7, True),
        (FLOAT64, 1e-14, False),
    ],
)
def test_wrong_is_more_than_rounding(workload: str, error: float | None, verdict: bool) -> None:
    assert wrong(Row("torchjd", workload, "gram", error=error)) is verdict


def test_peak_memory_is_counted_above_the_base() -> None:
    memory = Memory()
    block = np.ones(2**23)  # 64 MiB, written to
    del block
    assert 60 < memory.peak() < 100
