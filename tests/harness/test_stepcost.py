"""Step costs: wrong steps are refused, clocks are read in turns, and what is timed is what is said."""

import itertools
from typing import Any

import pytest
import torch
from trials import PROBLEM

import harness.measure
import harness.stepcost
from ggn_core import GGN
from harness.measure import interleaved, repeats_for, warm_up
from harness.problems import Batch, make_problem
from harness.stepcost import measure_steps, step_error
from harness.trial import Outcome, StepCostTrial, TrialResult


def _trial(**changes: object) -> StepCostTrial:
    settings: dict[str, object] = {
        "problem": PROBLEM,
        "methods": ({"name": "ggn"}, {"name": "sgd"}, {"name": "adam"}),
        "batch_size": 30,
        "threads": 1,
        "seed": 0,
        "rounds": 30,
    }
    return StepCostTrial.model_validate(settings | changes)


def test_a_trial_times_every_method_and_every_phase() -> None:
    result = measure_steps(_trial())
    assert result.outcome is Outcome.COMPLETED
    costs = result.costs
    assert costs is not None
    assert [len(column) for column in (*costs.step, costs.again, costs.gradient)] == [30] * 5
    assert list(costs.phases) == ["forward", "input gradients", "Gram", "solve", "update"]
    assert all(len(column) == 30 and min(column) > 0 for column in costs.phases.values())
    assert costs.step_error is not None
    assert costs.step_error < 1e-4
    assert all(memory is not None and memory > 0 for memory in costs.memory_mib)
    assert TrialResult.model_validate_json(result.model_dump_json()) == result


def test_without_ggn_there_is_nothing_to_check() -> None:
    costs = measure_steps(_trial(methods=({"name": "sgd"}, {"name": "adam"}))).costs
    assert costs is not None
    assert costs.step_error is None
    assert costs.phases == {}


def test_an_iterative_step_is_checked_as_it_is_solved_and_has_no_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    solvers = []

    class Watched(GGN):
        def __init__(self, model: torch.nn.Module, **settings: Any):
            solvers.append(settings["solver"])
            super().__init__(model, **settings)

    monkeypatch.setattr(harness.stepcost, "GGN", Watched)
    trial = _trial(methods=({"name": "ggn", "solver": "cg"}, {"name": "sgd"}), dtype="float64")
    costs = measure_steps(trial).costs
    assert solvers == ["cg"]
    assert costs is not None
    assert costs.phases == {}
    assert costs.step_error is not None
    assert costs.step_error < 1e-4


class _DampedTwice(GGN):
    def __init__(self, model: torch.nn.Module, lr: float, damping: float, **settings: Any):
        super().__init__(model, lr, 2 * damping, **settings)


def test_a_wrong_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.stepcost, "GGN", _DampedTwice)
    result = measure_steps(_trial())
    assert result.outcome is Outcome.REFUSED
    assert "dense float64 solve" in result.reason
    assert result.costs is None


def test_the_step_error_is_that_of_the_weights() -> None:
    problem = make_problem(_trial().problem, seed=0, dtype="float64")
    model = problem.model()
    before = [p.clone() for p in model.parameters()]
    batch = Batch(problem.train.all().inputs[:5], problem.train.all().targets[:5])
    assert step_error(model, batch, damping=0.3) < 1e-10
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


class _Clock:
    """Time that passes only when a step says so."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now

    def perf_counter(self) -> float:
        return self.now * 1e-9


def test_steps_are_timed_in_turns_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = _Clock(), []
    monkeypatch.setattr(harness.measure, "time", clock)

    def step(name: str, nanoseconds: int):  # type: ignore[no-untyped-def]
        def run() -> None:
            calls.append(name)
            clock.now += nanoseconds

        return run

    fast, slow = interleaved([step("fast", 1000), step("slow", 3000)], [3, 1], 40, 0, lambda: None)
    assert fast == pytest.approx([1e-6] * 40)
    assert slow == pytest.approx([3e-6] * 40)
    turns = [name for name, group in itertools.groupby(calls)]
    assert calls.count("fast") == 120
    assert calls.count("slow") == 40
    assert 41 < len(turns) < 80  # neither always in the same order nor one after the other


def test_warm_up_goes_on_until_the_median_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, durations = _Clock(), iter([9000] * 5 + [5000] * 5 + [1000] * 5 + [1010] * 50)
    monkeypatch.setattr(harness.measure, "time", clock)

    def step() -> None:
        clock.now += next(durations)

    assert warm_up(step, lambda: None) == pytest.approx(1.01e-6)


def test_short_steps_are_repeated() -> None:
    assert repeats_for(1.0) == 1
    assert repeats_for(1e-4) == 20
