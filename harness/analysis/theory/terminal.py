"""The table of a theory suite, for a terminal and as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ...sweep import Costs
from ...theory_suite import TheorySuite
from ...wording import counted
from ..formats import interval, number
from ..labels import Labels
from ..plain import plain
from .summary import summaries

__all__ = ["as_records", "print_tables"]

HEADINGS = {"link_gap": "gap from kernel", "order": "order", "rate": "rate an epoch", "predicted": "predicted"}


def print_tables(suite: TheorySuite, found: Sequence[Costs], console: Console) -> None:
    """Prints one row a cell."""
    label = Labels(suite)
    table = Table(
        title=f"{suite.suite}: medians over {counted(len(suite.seeds), 'seed')} [95% interval]", title_justify="left"
    )
    table.add_column("cell")
    for heading in (*HEADINGS.values(), "‖r⁺‖ / bound"):
        table.add_column(heading, justify="right", no_wrap=console.width >= 120)
    for summary in summaries(found):
        values = (interval(getattr(summary, key)) for key in HEADINGS)
        table.add_row(label.cell(summary.costs.cell), *values, number(summary.bound, 2))
    console.print(table)


def as_records(suite: TheorySuite, found: Sequence[Costs]) -> list[dict[str, Any]]:
    """The same rows as plain data; null where there is no number."""
    label = Labels(suite)
    return [
        {
            "cell": label.cell(summary.costs.cell),
            **{key: plain(getattr(summary, key)) for key in HEADINGS},
            "bound": plain(summary.bound),
        }
        for summary in summaries(found)
    ]
