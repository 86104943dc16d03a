"""The table of a step-cost suite, for a terminal and as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ...stepcost_suite import StepCostSuite
from ...sweep import Costs
from ...wording import counted
from ..formats import interval, number
from ..labels import Labels
from ..plain import plain
from .growth import crossovers
from .summary import summaries

__all__ = ["as_records", "print_tables"]


def print_tables(suite: StepCostSuite, found: Sequence[Costs], console: Console) -> None:
    """Prints one row a cell: the first method's step, its ratio to each rival, and memory."""
    label = Labels(suite)
    ours, *rivals = (label.method(method) for method in suite.methods)
    table = Table(
        title=f"{suite.suite}: medians over {counted(suite.rounds, 'round')} [95% interval]", title_justify="left"
    )
    table.add_column("cell")
    table.add_column(f"{ours}, ms", justify="right")
    for rival in rivals:
        table.add_column(f"/ {rival}", justify="right", no_wrap=console.width >= 120)
    table.add_column("/ itself", justify="right", no_wrap=console.width >= 120)
    table.add_column("memory / " + rivals[0], justify="right")
    cells = summaries(suite, found)
    for summary in cells:
        table.add_row(
            label.cell(summary.costs.cell),
            number(summary.milliseconds[0]),
            *(interval(ratio.value) for ratio in summary.ratios),
            interval(summary.again) + (" noisy" if summary.noisy else ""),
            number(summary.memory_mib[0] / summary.memory_mib[1]) if summary.memory_mib[1] else "–",
        )
    console.print(table)
    for entry in crossovers(suite, cells):
        for rival, crossing in zip(rivals, entry.crossings, strict=True):
            if crossing is not None:
                place = f"{entry.axis.replace('_', ' ')} ({entry.rest})"
                words = f"{ours} within {suite.margin:g} times {rival}, along {place}: {crossing.told(entry.axis)}"
                console.print(
                    words + (" (noisy)" if entry.noisy else ""), highlight=False, markup=False, soft_wrap=True
                )


def as_records(suite: StepCostSuite, found: Sequence[Costs]) -> list[dict[str, Any]]:
    """The same rows as plain data, whole; null where there is no number."""
    label = Labels(suite)
    names = [label.method(method) for method in suite.methods]
    return [
        {
            "cell": label.cell(summary.costs.cell),
            "outcomes": {str(outcome): count for outcome, count in summary.outcomes.items()},
            "milliseconds": plain(dict(zip(names, summary.milliseconds, strict=True))),
            "memory_mib": plain(dict(zip(names, summary.memory_mib, strict=True))),
            "ratios": {
                label.method(ratio.rival): plain(ratio.value) | {"verdict": ratio.verdict} for ratio in summary.ratios
            },
            "again": plain(summary.again),
            "noisy": summary.noisy,
            "gradient_milliseconds": plain(summary.gradient_milliseconds),
            "phases": summary.phases,
            "step_error": plain(summary.step_error),
        }
        for summary in summaries(suite, found)
    ]
