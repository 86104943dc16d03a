"""Everything that the report of a theory suite says, as plain data."""

from collections.abc import Sequence
from typing import Any

from ...sweep import Costs
from ...theory_suite import TheorySuite
from ..page import trials
from ..plain import plain
from .report import notes, report_data
from .terminal import as_records

__all__ = ["as_record"]


def as_record(suite: TheorySuite, found: Sequence[Costs]) -> dict[str, Any]:
    """The report's numbers, section by section; see ``plain``."""
    data = report_data(suite, found)
    record = {
        "question": suite.question,
        "notes": notes(suite, found),
        "fits": data["fits"],
        "rows": [
            row | {"trials": trials(costs.results)} for row, costs in zip(as_records(suite, found), found, strict=True)
        ],
        "data": data["data"],
        "environments": data["environments"],
    }
    return plain(record)  # type: ignore[no-any-return]
