"""The report's main table, for a terminal and as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ..formats import interval, number
from ..labels import Labels
from ..plain import plain
from ..sensitivity import NEAR
from .summary import rows
from .tuning import sensitivities

__all__ = ["as_records", "print_tables"]

# measure -> heading, and what stands for infinity
MEASURES = {
    "epochs_to_target": ("epochs to target", "missed"),
    "seconds_to_target": ("seconds to target", "missed"),
    "final_test_rmse": ("final test RMSE", "failed"),
    "best_test_rmse": ("best test RMSE", "failed"),
}


def print_tables(suite: TrainingSuite, contenders: Sequence[Contender], console: Console) -> None:
    """Prints one row a method in a cell: medians over seeds with 95% intervals."""
    label = Labels(suite)
    table = Table(title=f"{suite.suite}: medians over seeds [95% interval]", title_justify="left")
    table.add_column("cell", min_width=9)
    table.add_column("method", min_width=6)
    table.add_column("met target", justify="right", min_width=6)
    for heading, _ in MEASURES.values():
        table.add_column(heading, justify="right", no_wrap=console.width >= 120)
    previous = None
    for row in rows(suite, contenders):
        cell = label.cell(row.contender.cell)
        if previous is not None and cell != previous:
            table.add_section()
        table.add_row(
            cell if cell != previous else "",
            label.variant(row.contender.method, row.settings),
            f"{row.hits}/{row.ran}" if row.ran else "not run",
            *(interval(getattr(row, key), infinite) for key, (_, infinite) in MEASURES.items()),
        )
        previous = cell
    console.print(table)
    for entry in sensitivities(suite, contenders):
        words = f"{entry.method}: worst over best setting {number(entry.spread, infinite='∞')} (median over cells), "
        words += f"{entry.near:.0%} of the settings within {NEAR:g} times the best"
        console.print(words, highlight=False, markup=False, soft_wrap=True)


def as_records(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """The same rows as plain data; what is infinite (a missed target, a failed trial) or unknown is null."""
    label = Labels(suite)
    return [
        {
            "cell": label.cell(row.contender.cell),
            "method": row.contender.method.name,
            "settings": settings.model_dump() if settings is not None else None,
            "tuned": {"tuned": True, "default": False}.get(row.settings, suite.is_tuned(row.contender.method)),
            "outcomes": {str(outcome): count for outcome, count in row.outcomes.items()},
            "met_target": row.hits,
            **{key: plain(getattr(row, key)) for key in MEASURES},
        }
        for row in rows(suite, contenders)
        for settings in [row.contender.method if row.settings == "default" else row.contender.settings]
    ]
