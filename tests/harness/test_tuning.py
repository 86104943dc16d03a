"""Settings are chosen by the published rule, and by nothing else."""

import math

from harness.methods import GgnSettings
from harness.sweep import sweep
from harness.training_suite import TrainingSuite
from harness.trial import Curve, Outcome, TrainingTrial, TrialResult
from harness.tuning import Candidate, best

SUITE = TrainingSuite.model_validate(
    {
        "suite": "s",
        "problem": ({"name": "teacher_student", "width": 4},),
        "batch_size": (8,),
        "threads": (1,),
        "methods": ({"name": "ggn"}, {"name": "adam"}),
        "seeds": (0, 1),
        "target": 0.5,
        "tuning": {"seeds": (7, 8, 9), "spaces": {"ggn": {"lr": [0.1, 1.0]}, "adam": {"lr": [0.1, 1.0]}}},
    }
)

TUNING = SUITE.tuning
assert TUNING is not None


def _result(trial: TrainingTrial, losses: list[float], outcome: Outcome = Outcome.COMPLETED) -> TrialResult:
    points = list(range(len(losses)))
    curve = Curve(step=points, samples=points, epoch=points, seconds=points, train_loss=losses, test_rmse=losses)
    return TrialResult(trial=trial, outcome=outcome, curve=curve)


def _candidate(epochs: float, loss: float) -> Candidate:
    return Candidate(settings=GgnSettings(), epochs_to_target=epochs, final_train_loss=loss)


def test_fewest_epochs_then_lowest_loss() -> None:
    assert best([_candidate(5, 0.1), _candidate(3, 0.4), _candidate(3, 0.3)]) == _candidate(3, 0.3)
    assert best([_candidate(math.inf, 0.1), _candidate(9, 0.4)]) == _candidate(9, 0.4)
    assert best([_candidate(math.inf, 0.9), _candidate(math.inf, 0.8)]) == _candidate(math.inf, 0.8)


def test_a_candidate_is_judged_by_medians_and_misses_count() -> None:
    trial = SUITE.tuning_trials(SUITE.cells()[0], SUITE.methods[0])[0][1][0]
    results = [
        _result(trial, [1.0, 0.4, 0.3]),
        _result(trial, [1.0, 0.9, 0.8]),
        _result(trial, [1.0], Outcome.DIVERGED),
    ]
    judged = Candidate.judge(GgnSettings(), results, 0.5)
    assert judged.epochs_to_target == math.inf  # two of three missed
    assert judged.final_train_loss == 0.8


def test_the_sweep_evaluates_the_best_and_never_tunes_on_evaluation_seeds() -> None:
    asked: list[tuple[str, int, float, str]] = []

    def obtain(trial: TrainingTrial, role: str) -> TrialResult:
        asked.append((trial.method.name, trial.seed, trial.method.lr, role))
        good = (trial.method.name, trial.method.lr) in (("ggn", 1.0), ("adam", 0.1))
        return _result(trial, [1.0, 0.1 if good else 0.9])

    contenders = sweep(SUITE, obtain)
    assert {(c.method.name, c.settings.lr) for c in contenders if c.settings is not None} == {
        ("ggn", 1.0),
        ("adam", 0.1),
    }
    assert {seed for _, seed, _, role in asked if role == "tuning"} == {7, 8, 9}
    assert {(m, seed, lr) for m, seed, lr, role in asked if role == "evaluation"} == {
        ("ggn", 0, 1.0), ("ggn", 1, 1.0), ("adam", 0, 0.1), ("adam", 1, 0.1),
    }  # fmt: skip
    assert len(asked) == SUITE.size()


def test_an_incomplete_search_evaluates_nothing() -> None:
    def obtain(trial: TrainingTrial, role: str) -> TrialResult | None:
        return None if trial.seed == 9 and trial.method.name == "ggn" else _result(trial, [1.0, 0.1])

    ggn, adam = sweep(SUITE, obtain)
    assert ggn.settings is None
    assert ggn.evaluations == []
    assert len(adam.evaluations) == 2


def test_untuned_settings_are_evaluated_beside_the_searched_ones_on_the_same_seeds() -> None:
    suite = SUITE.model_copy(update={"tuning": TUNING.model_copy(update={"defaults": True})})
    asked: list[tuple[TrainingTrial, str]] = []

    def obtain(trial: TrainingTrial, role: str) -> TrialResult:
        asked.append((trial, role))
        good = trial.method.lr == (1.0 if trial.method.name == "ggn" else 0.1)
        return _result(trial, [1.0, 0.1 if good else 0.9])

    ggn, adam = sweep(suite, obtain)
    # GGN's search ends at its default, 1; Adam's, 0.1, is apart from its default.
    assert [(c.settings.lr, c.method.lr) for c in (ggn, adam) if c.settings] == [(1.0, 1.0), (0.1, 0.001)]
    assert ggn.untuned == ggn.evaluations
    assert [(r.trial.method.lr, r.trial.seed) for r in adam.untuned] == [(0.001, 0), (0.001, 1)]
    assert all(role == "evaluation" for trial, role in asked if trial.seed in suite.seeds)
    assert len(asked) == suite.size() == SUITE.size() + 4
    assert all(contender.untuned == [] for contender in sweep(SUITE, obtain))
