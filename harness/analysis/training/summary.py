"""Tables of a sweep: one row a method in a cell, and one row a comparison of two methods in a cell."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ...trial import Outcome
from ..statistics import Interval, median_interval, paired_ratio

__all__ = ["Comparison", "Gain", "Row", "by_seed", "comparisons", "gains", "paired", "rows"]

OURS = "ggn"
RATIO_KEYS = ("epochs_to_target", "seconds_to_target", "best_test_rmse")
ROW_KEYS = (*RATIO_KEYS, "final_test_rmse")


class Row(NamedTuple):
    """What one method did in one cell.

    Attributes:
        contender: The method, the cell and the results.
        settings: "tuned" or "default", where both were evaluated; otherwise "".
        outcomes: How many trials ended which way.
        ran: How many were run: all but the skipped.
        hits: How many met the target.
        epochs_to_target: Over seeds; misses are infinite.
        seconds_to_target: Over seeds; misses are infinite.
        final_test_rmse: Over the seeds that ended well, in the target's unit; the others are infinite.
        best_test_rmse: The lowest along each training, likewise.
    """

    contender: Contender
    settings: str
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


class Gain(NamedTuple):
    """What the search was worth: paired ratios over seeds, tuned over untuned settings of one method in one cell."""

    contender: Contender
    epochs_to_target: Interval
    seconds_to_target: Interval
    best_test_rmse: Interval


def by_seed(suite: TrainingSuite, contender: Contender, key: str, untuned: bool = False) -> dict[int, float]:
    """One number of ``TrialResult.summary`` for each seed that was run; infinite where there is none.

    Args:
        suite: The suite.
        contender: One of its methods in one of its cells.
        key: Of the number.
        untuned: Of the trials with untuned settings.
    """
    target = suite.target_of(contender.cell.problem)
    return {
        result.trial.seed: math.inf if (value := result.summary(target)[key]) is None else value
        for result in (contender.untuned if untuned else contender.evaluations)
        if result.outcome is not Outcome.SKIPPED
    }


def paired(ours: dict[int, float], rivals: dict[int, float]) -> tuple[list[float], list[float]]:
    """Both methods' numbers on the seeds that both ran."""
    seeds = [seed for seed in ours if seed in rivals]
    return [ours[seed] for seed in seeds], [rivals[seed] for seed in seeds]


def rows(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[Row]:
    """One row a contender, in the suite's order, and one for its untuned settings where they were asked for.

    Skipped trials are counted among the outcomes, and in nothing else.
    """
    table = []
    for contender in contenders:
        both = suite.compares_untuned(contender.method)
        table.append(_row(suite, contender, "tuned" if both else ""))
        if both:
            table.append(_row(suite, contender, "default"))
    return table


def _row(suite: TrainingSuite, contender: Contender, settings: str) -> Row:
    untuned = settings == "default"
    outcomes: dict[Outcome, int] = {}
    for result in contender.untuned if untuned else contender.evaluations:
        outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
    numbers = {key: list(by_seed(suite, contender, key, untuned).values()) for key in ROW_KEYS}
    return Row(
        contender=contender,
        settings=settings,
        outcomes=outcomes,
        ran=len(numbers["epochs_to_target"]),
        hits=sum(map(math.isfinite, numbers["epochs_to_target"])),
        **{key: median_interval(values) for key, values in numbers.items()},
    )


def gains(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[Gain]:
    """One entry a contender whose untuned settings were evaluated as well."""
    return [
        Gain(
            contender,
            **{
                key: paired_ratio(*paired(by_seed(suite, contender, key), by_seed(suite, contender, key, untuned=True)))
                for key in RATIO_KEYS
            },
        )
        for contender in contenders
        if contender.untuned
    ]


def comparisons(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[Comparison]:
    """GGN against each rival in every cell, over the seeds that both ran; each of its settings by itself."""
    return [
        Comparison(
            ours=ours,
            rival=rival,
            **{key: paired_ratio(*paired(by_seed(suite, ours, key), by_seed(suite, rival, key))) for key in RATIO_KEYS},
        )
        for ours in contenders
        for rival in contenders
        if ours.method.name == OURS != rival.method.name and rival.cell == ours.cell
    ]
