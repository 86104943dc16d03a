"""Everything that the report of a training suite says, as plain data."""

from collections.abc import Sequence
from typing import Any

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ..labels import Labels
from ..page import report_record, trials
from .report import MEASURES, notes, report_data
from .summary import Row, rows
from .terminal import as_records

__all__ = ["as_record"]


def as_record(suite: TrainingSuite, contenders: Sequence[Contender]) -> dict[str, Any]:
    """The report's numbers, section by section, with those of each trial behind them; see ``plain``."""
    data = report_data(suite, contenders)
    label = Labels(suite)
    sections = {
        "answers": data["answers"],
        "overall": [
            {"ours": entry.pair[0], "rival": entry.pair[1]}
            | {key: getattr(entry, key) for key in ("measure", "probability", "ratio")}
            for entry in data["overall"]
        ],
        "growth": data["scalings"],
        "crossovers": [
            {"axis": entry.axis, "rest": entry.rest, "ours": entry.pair[0], "rival": entry.pair[1]}
            | entry.crossing._asdict()
            | {"told": entry.crossing.told(entry.axis)}
            for entry in data["crossovers"]
        ],
        "rows": [
            told | {"trials": _trials(suite, row)}
            for told, row in zip(as_records(suite, contenders), rows(suite, contenders), strict=True)
        ],
        "comparisons": [
            {key: entry[key] for key in ("cell", "ours", "rival")}
            | {key: _with_verdict(getattr(entry["item"], key)) for key in MEASURES}
            for entry in data["comparisons"]
        ],
        "gains": [
            {key: entry[key] for key in ("cell", "method", "chosen", "default")}
            | {key: _with_verdict(getattr(entry["gain"], key)) for key in MEASURES}
            for entry in data["gains"]
        ],
        "sensitivities": [
            {"method": entry.method, "spread": entry.spread, "near": entry.near}
            | {"cells": [{"cell": cell} | found._asdict() for cell, found in entry.cells]}
            for entry in data["sensitivities"]
        ],
        "candidates": [
            {"cell": label.cell(contender.cell), "method": label.method(contender.method), **candidate.model_dump()}
            for contender in contenders
            for candidate in contender.candidates
        ],
    }
    return report_record(suite, notes(suite, contenders), data, sections)


def _trials(suite: TrainingSuite, row: Row) -> list[dict[str, Any]]:
    target = suite.target_of(row.contender.cell.problem)
    results = row.contender.untuned if row.settings == "default" else row.contender.evaluations
    return [told | result.summary(target) for told, result in zip(trials(results), results, strict=True)]


def _with_verdict(value: Any) -> dict[str, Any]:
    return {**value._asdict(), "verdict": value.verdict}
