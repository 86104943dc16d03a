"""Everything that the report of a step-cost suite says, as plain data."""

from collections.abc import Sequence
from typing import Any

from ...stepcost_suite import StepCostSuite
from ...sweep import Costs
from ..page import report_record, with_trials
from .report import notes, report_data
from .terminal import as_records

__all__ = ["as_record"]


def as_record(suite: StepCostSuite, found: Sequence[Costs]) -> dict[str, Any]:
    """The report's numbers, section by section; see ``plain``."""
    data = report_data(suite, found)
    sections = {
        "answers": data["answers"],
        "rows": with_trials(as_records(suite, found), found),
        "crossovers": [
            {"axis": entry.axis, "rest": entry.rest, "noisy": entry.noisy}
            | {
                "crossings": {
                    rival: crossing and crossing._asdict() | {"told": crossing.told(entry.axis)}
                    for rival, crossing in zip(data["methods"][1:], entry.crossings, strict=True)
                }
            }
            for entry in data["crossovers"]
        ],
        "growth": [
            {"axis": entry.axis, "rest": entry.rest}
            | {"exponents": dict(zip(data["methods"], entry.exponents, strict=True))}
            for entry in data["growths"]
        ],
    }
    return report_record(suite, notes(suite, found), data, sections)
