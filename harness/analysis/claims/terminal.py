"""The verdicts on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ...claims.check import CheckedClaim
from ...claims.estimands import Estimate
from ..formats import interval, number
from ..statistics import Interval

__all__ = ["print_verdicts", "written"]

DIGITS = 4  # an end that lies just beyond a margin must not be rounded onto it


def print_verdicts(checked: Sequence[CheckedClaim], console: Console) -> None:
    """One row a claim, and below it one row a deciding part."""
    table = Table(title="The paper's claims", title_justify="left")
    table.add_column("claim")
    table.add_column("verdict", min_width=14)
    table.add_column("number [95% interval]", justify="right", no_wrap=console.width >= 120)
    table.add_column("would show it", justify="right")
    for item in checked:
        table.add_section()
        table.add_row(f"[bold]{item.claim.claim}[/bold]", f"[bold]{item.verdict}[/bold]", "", "")
        for part in item.parts:
            if part.part.decides:
                accepted = str(part.part.accept)
                table.add_row(f"  {part.part.part}", str(part.verdict.verdict), written(part.estimate), accepted)
    console.print(table)
    for item in checked:
        console.print(f"{item.claim.claim}: {item.reason}", highlight=False, markup=False, soft_wrap=True)


def written(estimate: Estimate) -> str:
    """An estimate with its interval, where it has one; "–" if there is no estimate."""
    if estimate.absent:
        return "–"
    if estimate.low == estimate.high == estimate.value:
        return number(estimate.value, infinite="∞")
    measured = Interval(estimate.value, estimate.low, estimate.high, max(estimate.samples, 1))
    return interval(measured, infinite="∞", digits=DIGITS)
