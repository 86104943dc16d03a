"""Everything that the report of a theory suite says, as plain data."""

from collections.abc import Sequence
from typing import Any

from ...sweep import Costs
from ...theory_suite import TheorySuite
from ..page import report_record, with_trials
from .report import notes, report_data
from .terminal import as_records

__all__ = ["as_record"]


def as_record(suite: TheorySuite, found: Sequence[Costs]) -> dict[str, Any]:
    """The report's numbers, section by section; see ``plain``."""
    data = report_data(suite, found)
    sections = {
        "fits": data["fits"],
        "rows": with_trials(as_records(suite, found), found),
    }
    return report_record(suite, notes(suite, found), data, sections)
