"""Tables of a sweep: one row a method in a cell, and one row a comparison of two methods in a cell."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..suite import Cell, Suite
from ..sweep import Contender
from ..trial import Outcome, TrialResult
from .statistics import Interval, median_interval, paired_ratio

__all__ = ["Comparison", "Row", "cell_label", "comparisons", "rows", "settings_label", "varying"]


class Row(NamedTuple):
    """What one method did in one cell.

    Attributes:
        contender: The method, the cell and the results.
        outcomes: How many trials ended which way.
        hits: How many met the target.
        epochs_to_target: Over seeds; misses are infinite.
        seconds_to_target: Over seeds; misses are infinite.
        final_test_rmse: Over the seeds that ended well, in the target's unit; the others are infinite.
        best_test_rmse: The lowest along each training, likewise.
    """

    contender: Contender
    outcomes: dict[Outcome, int]
    hits: int
    epochs_to_target: Interval
    seconds_to_target: Interval
    final_test_rmse: Interval
    best_test_rmse: Interval


class Comparison(NamedTuple):
    """Paired ratios over seeds, ``method`` over ``rival``: below 1 favours ``method``."""

    cell: Cell
    method: str
    rival: str
    epochs_to_target: Interval
    seconds_to_target: Interval
    best_test_rmse: Interval


def rows(contenders: Sequence[Contender]) -> list[Row]:
    """One row a contender, in the suite's order. Skipped trials are counted among the outcomes, and in nothing else."""
    return [_row(contender) for contender in contenders]


def _row(contender: Contender) -> Row:
    ran = [result for result in contender.evaluations if result.outcome is not Outcome.SKIPPED]
    outcomes: dict[Outcome, int] = {}
    for result in contender.evaluations:
        outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1

    def over_seeds(key: str) -> Interval:
        return median_interval([_value(result, key) for result in ran])

    return Row(
        contender=contender,
        outcomes=outcomes,
        hits=sum(math.isfinite(_value(result, "epochs_to_target")) for result in ran),
        epochs_to_target=over_seeds("epochs_to_target"),
        seconds_to_target=over_seeds("seconds_to_target"),
        final_test_rmse=over_seeds("final_test_rmse"),
        best_test_rmse=over_seeds("best_test_rmse"),
    )


def comparisons(contenders: Sequence[Contender], method: str) -> list[Comparison]:
    """``method`` against each of its rivals in every cell, over the seeds that both ran."""
    made = []
    for ours in contenders:
        if ours.method != method:
            continue
        for rival in contenders:
            if rival.cell == ours.cell and rival.method != method:
                made.append(_comparison(ours, rival))
    return made


def _comparison(ours: Contender, rival: Contender) -> Comparison:
    theirs = {result.trial.seed: result for result in rival.evaluations if result.outcome is not Outcome.SKIPPED}
    pairs = [
        (result, theirs[result.trial.seed])
        for result in ours.evaluations
        if result.trial.seed in theirs and result.outcome is not Outcome.SKIPPED
    ]

    def ratio(key: str) -> Interval:
        return paired_ratio([_value(a, key) for a, _ in pairs], [_value(b, key) for _, b in pairs])

    return Comparison(
        cell=ours.cell,
        method=ours.method,
        rival=rival.method,
        epochs_to_target=ratio("epochs_to_target"),
        seconds_to_target=ratio("seconds_to_target"),
        best_test_rmse=ratio("best_test_rmse"),
    )


def _value(result: TrialResult, key: str) -> float:
    value = result.summary()[key]
    return math.inf if value is None else value


def varying(suite: Suite) -> list[str]:
    """The dotted names of what differs between the suite's cells."""
    flat = [_flat(cell) for cell in suite.cells()]
    names = dict.fromkeys(name for cell in flat for name in cell)
    return [name for name in names if len({str(cell.get(name)) for cell in flat}) > 1]


def cell_label(cell: Cell, names: Sequence[str]) -> str:
    """A cell by what sets it apart, or by its problem where nothing does."""
    flat = _flat(cell)
    return (
        ", ".join(f"{name.removeprefix('problem.').replace('_', ' ')} {flat.get(name)}" for name in names)
        or cell.problem.name
    )


def settings_label(contender: Contender) -> str:
    """The settings of a method, as it was evaluated."""
    if contender.settings is None:
        return "search incomplete"
    return ", ".join(f"{key} {value:g}" for key, value in contender.settings.model_dump(exclude={"name"}).items())


def _flat(cell: Cell) -> dict[str, Any]:
    dumped = cell.model_dump(mode="json")
    problem = dumped.pop("problem")
    return {f"problem.{key}": value for key, value in problem.items()} | dumped
