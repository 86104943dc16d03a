"""The report's main table, for a terminal and as JSON."""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..suite import Suite
from ..sweep import Contender
from .figures import NAMES
from .report import interval
from .statistics import Interval
from .summary import cell_label, rows, varying

__all__ = ["as_records", "print_tables"]

MEASURES = {
    "epochs_to_target": "epochs to target",
    "seconds_to_target": "seconds to target",
    "final_test_rmse": "final test RMSE",
    "best_test_rmse": "best test RMSE",
}


def print_tables(suite: Suite, contenders: Sequence[Contender], console: Console) -> None:
    """Prints one row a method in a cell: medians over seeds with 95% intervals."""
    names = varying(suite)
    table = Table(title=f"{suite.suite}: medians over seeds [95% interval]", title_justify="left")
    table.add_column("cell", min_width=9)
    table.add_column("method", no_wrap=True, min_width=6)
    table.add_column("met target", justify="right", min_width=6)
    for label in MEASURES.values():
        table.add_column(label, justify="right", no_wrap=console.width >= 120)
    previous = None
    for row in rows(contenders):
        cell = cell_label(row.contender.cell, names)
        if previous is not None and cell != previous:
            table.add_section()
        method = NAMES.get(row.contender.method, row.contender.method)
        hits = f"{row.hits}/{row.epochs_to_target.size}"
        table.add_row(
            cell if cell != previous else "", method, hits, *(interval(getattr(row, key)) for key in MEASURES)
        )
        previous = cell
    console.print(table)


def as_records(suite: Suite, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """The same rows as plain data; what is infinite (a missed target) or unknown is null."""
    names = varying(suite)
    return [
        {
            "cell": cell_label(row.contender.cell, names),
            "method": row.contender.method,
            "settings": row.contender.settings.model_dump() if row.contender.settings is not None else None,
            "outcomes": {str(outcome): count for outcome, count in row.outcomes.items()},
            "met_target": row.hits,
            **{key: _plain(getattr(row, key)) for key in MEASURES},
        }
        for row in rows(contenders)
    ]


def _plain(value: Interval) -> dict[str, float | int | None]:
    return {key: number if math.isfinite(number) else None for key, number in value._asdict().items()}
