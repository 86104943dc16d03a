"""Tables of a sweep: one row a method in a cell, and one row a comparison of two methods in a cell."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ...trial import Outcome, TrialResult
from ..statistics import Interval, median_interval, paired_ratio

__all__ = ["Comparison", "Row", "comparisons", "rows"]

OURS = "ggn"


class Row(NamedTuple):
    """What one method did in one cell.

    Attributes:
        contender: The method, the cell and the results.
        outcomes: How many trials ended which way.
        ran: How many were run: all but the skipped.
        hits: How many met the target.
        epochs_to_target: Over seeds; misses are infinite.
        seconds_to_target: Over seeds; misses are infinite.
        final_test_rmse: Over the seeds that ended well, in the target's unit; the others are infinite.
        best_test_rmse: The lowest along each training, likewise.
    """

    contender: Contender
    outcomes: dict[Outcome, int]
    ran: int
    hits: int
    epochs_to_target: Interval
    seconds_to_target: Interval
    final_test_rmse: Interval
    best_test_rmse: Interval


class Comparison(NamedTuple):
    """Paired ratios over seeds, ``ours`` over ``rival``: below 1 favours ours. Both stand in the same cell."""

    ours: Contender
    rival: Contender
    epochs_to_target: Interval
    seconds_to_target: Interval
    best_test_rmse: Interval


def rows(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[Row]:
    """One row a contender, in the suite's order. Skipped trials are counted among the outcomes, and in nothing else."""
    return [_row(contender, suite.target_of(contender.cell.problem)) for contender in contenders]


def _row(contender: Contender, target: float) -> Row:
    ran = [result for result in contender.evaluations if result.outcome is not Outcome.SKIPPED]
    outcomes: dict[Outcome, int] = {}
    for result in contender.evaluations:
        outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1

    def over_seeds(key: str) -> Interval:
        return median_interval([_value(result, key, target) for result in ran])

    return Row(
        contender=contender,
        outcomes=outcomes,
        ran=len(ran),
        hits=sum(math.isfinite(_value(result, "epochs_to_target", target)) for result in ran),
        epochs_to_target=over_seeds("epochs_to_target"),
        seconds_to_target=over_seeds("seconds_to_target"),
        final_test_rmse=over_seeds("final_test_rmse"),
        best_test_rmse=over_seeds("best_test_rmse"),
    )


def comparisons(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[Comparison]:
    """GGN against each rival in every cell, over the seeds that both ran; each of its settings by itself."""
    return [
        _comparison(ours, rival, suite.target_of(ours.cell.problem))
        for ours in contenders
        for rival in contenders
        if ours.method.name == OURS != rival.method.name and rival.cell == ours.cell
    ]


def _comparison(ours: Contender, rival: Contender, target: float) -> Comparison:
    theirs = {result.trial.seed: result for result in rival.evaluations if result.outcome is not Outcome.SKIPPED}
    pairs = [
        (result, theirs[result.trial.seed])
        for result in ours.evaluations
        if result.trial.seed in theirs and result.outcome is not Outcome.SKIPPED
    ]

    def ratio(key: str) -> Interval:
        return paired_ratio([_value(a, key, target) for a, _ in pairs], [_value(b, key, target) for _, b in pairs])

    return Comparison(
        ours=ours,
        rival=rival,
        epochs_to_target=ratio("epochs_to_target"),
        seconds_to_target=ratio("seconds_to_target"),
        best_test_rmse=ratio("best_test_rmse"),
    )


def _value(result: TrialResult, key: str, target: float) -> float:
    value = result.summary(target)[key]
    return math.inf if value is None else value
