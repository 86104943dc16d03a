"""What the gate concludes from samples whose truth is known, and how it takes them."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from harness.gate.pairs import AGAIN, BASE, HEAD, SIDES, Case, Round, measure
from harness.gate.process import CaseError, SkippedError
from harness.gate.verdict import Finding, Status, Verdict, judge, overall


def _case(name: str = "speed.Speed.time_it", role: str = "time", tolerance: float = 0.05) -> Case:
    return Case(
        id=name, module="speed", kind="Speed", method="time_it", position=0, role=role, unit="s", tolerance=tolerance
    )


def _timed(seed: int, head: float, again: float = 1.0, noise: float = 0.03, size: int = 50) -> Round:
    """Seconds with neighbours' whims (heavy-tailed, each side its own) on top of slow drift (shared)."""
    generator = np.random.default_rng(seed)
    drift = np.exp(0.3 * np.sin(np.linspace(0, 6, size)))
    factors = {BASE: 1.0, HEAD: head, AGAIN: again}
    return Round(
        samples={
            side: (factor * drift * (1 + noise * generator.pareto(2.5, size))).tolist()
            for side, factor in factors.items()
        }
    )


def _tracked(base: float, head: float, again: float | None = None) -> Round:
    return Round(samples={BASE: [base], HEAD: [head], AGAIN: [base if again is None else again]})


def _judged(rounds: Sequence[Round], **how: Any) -> Finding:
    case = _case(**how)
    (finding,) = judge({case.id: (case, rounds)})
    return finding


def test_no_change_is_settled_at_once() -> None:
    finding = _judged([_timed(0, head=1.0)])
    assert (finding.status, finding.settled) == (Status.UNCHANGED, True)


@pytest.mark.parametrize(("factor", "status"), [(1.15, Status.SLOWER), (1 / 1.15, Status.FASTER)])
def test_a_change_counts_once_a_second_measurement_agrees(factor: float, status: Status) -> None:
    once = _judged([_timed(0, factor)])
    assert (once.status, once.settled) == (Status.UNDECIDED, False)
    twice = _judged([_timed(0, factor), _timed(1, factor)])
    assert (twice.status, twice.settled) == (status, True)
    assert twice.ratio is not None
    assert twice.ratio.low < factor < twice.ratio.high


def test_a_change_that_a_second_measurement_does_not_see_stays_open() -> None:
    finding = _judged([_timed(0, 1.3, noise=0.01), _timed(1, 1.0, noise=0.01)])
    assert finding.status is Status.UNDECIDED
    assert not finding.settled


def test_a_base_that_differs_from_itself_decides_nothing() -> None:
    finding = _judged([_timed(seed, head=1.15, again=1.12) for seed in range(3)])
    assert finding.status is Status.NOISY


def test_what_noise_hides_is_not_called_unchanged() -> None:
    """So much noise that 15% could hide in it: whatever the medians happen to say, never "unchanged"."""
    for seed in range(20):
        finding = _judged([_timed(seed, head=1.15, noise=0.8, size=30)])
        assert finding.status is not Status.UNCHANGED


def test_a_change_between_the_threshold_and_the_noise_stays_open() -> None:
    finding = _judged([_timed(seed, head=1.07, again=1.045, noise=0.003) for seed in range(3)])
    assert finding.status is Status.UNDECIDED


def test_identical_suites_raise_no_alarm_and_a_slow_case_among_them_is_named() -> None:
    for seed in range(5):
        cases = [_case(f"speed.Speed.time_{i}") for i in range(10)]
        measured = {
            case.id: (case, [_timed(100 * seed + 10 * i + r, 1.15 if i == 3 else 1.0, noise=0.1) for r in range(2)])
            for i, case in enumerate(cases)
        }
        slower = [finding.id for finding in judge(measured) if finding.status is Status.SLOWER]
        assert slower == ["speed.Speed.time_3"]


@pytest.mark.parametrize(
    ("sides", "status"),
    [
        ([HEAD], Status.FAILED),
        ([BASE, AGAIN], Status.NEW),
        ([BASE], Status.NEW),
        ([BASE, HEAD, AGAIN], Status.BROKEN),
    ],
)
def test_a_failure_counts_the_second_time(sides: list[str], status: Status) -> None:
    failed = Round(failed=dict.fromkeys(sides, "Boom: planted"))
    once, twice = _judged([failed]), _judged([failed, failed])
    assert (once.status, once.settled) == (status, False)
    assert (twice.status, twice.settled) == (status, True)
    assert "planted" in twice.reason
    assert _judged([failed, _timed(0, 1.0)]).status is Status.UNCHANGED


def test_tracked_numbers() -> None:
    assert _judged([_tracked(8, 8)], role="track").status is Status.UNCHANGED
    assert _judged([_tracked(8, 8.3)], role="track").status is Status.UNCHANGED
    once = _judged([_tracked(8, 9)], role="track")
    assert (once.status, once.settled) == (Status.UNDECIDED, False)
    assert _judged([_tracked(8, 9)] * 2, role="track").status is Status.SLOWER
    assert _judged([_tracked(9, 8)] * 2, role="track").status is Status.FASTER
    assert _judged([_tracked(8, 9)] * 2, role="track", tolerance=0.2).status is Status.UNCHANGED
    assert _judged([_tracked(8, 9), _tracked(8, 8)], role="track").status is Status.UNDECIDED
    assert _judged([_tracked(8, 9, again=8.9)] * 2, role="track").status is Status.NOISY
    assert _judged([_tracked(0, 0)], role="track").status is Status.UNCHANGED
    assert _judged([_tracked(0, 1)] * 2, role="track").status is Status.SLOWER


@pytest.mark.parametrize(
    ("statuses", "verdict", "exit_code"),
    [
        ([Status.UNCHANGED, Status.FASTER, Status.NEW, Status.SKIPPED, Status.REMOVED], Verdict.FINE, 0),
        ([Status.UNCHANGED, Status.SLOWER, Status.NOISY], Verdict.REGRESSION, 1),
        ([Status.UNCHANGED, Status.FAILED], Verdict.REGRESSION, 1),
        ([Status.UNCHANGED, Status.UNDECIDED], Verdict.INCONCLUSIVE, 3),
        ([Status.UNCHANGED, Status.NOISY], Verdict.INCONCLUSIVE, 3),
        ([Status.UNCHANGED, Status.BROKEN], Verdict.INCONCLUSIVE, 3),
        ([Status.NEW, Status.SKIPPED], Verdict.INCONCLUSIVE, 3),  # nothing was compared
        ([], Verdict.INCONCLUSIVE, 3),
    ],
)
def test_the_cases_together(statuses: list[Status], verdict: Verdict, exit_code: int) -> None:
    found = overall([Finding(id=str(i), status=status) for i, status in enumerate(statuses)])
    assert (found, found.exit_code) == (verdict, exit_code)


class _Fake:
    """Answers like a process, and writes down what it was asked."""

    def __init__(self, name: str, seconds: float, asked: list[str], fails_at: str = "", error: Exception | None = None):
        self.name, self.seconds, self.asked = name, seconds, asked
        self.fails_at, self.error = fails_at, error
        self.calls: set[int] = set()

    def ask(self, do: str, **arguments: Any) -> Any:
        if do == self.fails_at:
            assert self.error is not None
            raise self.error
        if do == "block" and arguments["calls"] > 1:
            self.calls.add(arguments["calls"])
            self.asked.append(self.name)
        return self.seconds


def _crew(asked: list[str], **special: _Fake) -> dict[str, _Fake]:
    return {side: special.get(side, _Fake(side, 0.001, asked)) for side in SIDES}


def test_turns_are_complete_and_in_random_order() -> None:
    asked: list[str] = []
    sides = _crew(asked, head=_Fake(HEAD, 0.002, asked))
    taken = measure(_case(), sides, 50, random.Random(0))
    assert taken.samples == {BASE: [0.001] * 50, HEAD: [0.002] * 50, AGAIN: [0.001] * 50}
    turns = [tuple(asked[i : i + 3]) for i in range(0, len(asked), 3)]
    assert len(turns) == 50
    assert {tuple(sorted(turn)) for turn in turns} == {tuple(sorted(SIDES))}
    assert len(set(turns)) == math.factorial(3)
    # 5 ms of 1 ms calls; the head gets as many, though it is slower.
    assert {frozenset(side.calls) for side in sides.values()} == {frozenset({5})}


def test_a_tracked_number_is_taken_once_and_must_be_finite() -> None:
    taken = measure(_case(role="track"), _crew([]), 50, random.Random(0))
    assert taken.samples == {side: [0.001] for side in SIDES}
    taken = measure(_case(role="track"), _crew([], head=_Fake(HEAD, math.nan, [])), 50, random.Random(0))
    assert "nan" in taken.failed[HEAD]


@pytest.mark.parametrize("stage", ["setup", "block", "drop"])
def test_whoever_fails_is_named(stage: str) -> None:
    broken = _Fake(HEAD, 0.001, [], stage, CaseError("boom"))
    taken = measure(_case(), _crew([], head=broken), 50, random.Random(0))
    assert taken == Round(failed={HEAD: "boom"})


def test_a_head_that_fails_where_the_base_would_too_is_not_alone_to_blame() -> None:
    sides = _crew([], head=_Fake(HEAD, 0.001, [], "setup", CaseError("boom")))
    sides[BASE] = _Fake(BASE, 0.001, [], "block", CaseError("boom as well"))
    taken = measure(_case(), sides, 50, random.Random(0))
    assert taken.failed == {HEAD: "boom", BASE: "boom as well"}


def test_a_benchmark_may_skip_itself() -> None:
    sides = {side: _Fake(side, 0.001, [], "setup", SkippedError("no cuda here")) for side in SIDES}
    assert measure(_case(), sides, 50, random.Random(0)) == Round(skipped="no cuda here")
