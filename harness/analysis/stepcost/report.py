"""The page of a step-cost suite."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...stepcost_suite import StepCostSuite
from ...sweep import Costs
from ...wording import counted
from ..labels import Labels
from ..page import Form, figure_address, provenance, provenance_notes, write_page
from ..scaling import parameters
from .figures import cost_figures
from .growth import crossovers, growths
from .summary import LEAST_EFFECT, CellSummary, summaries

__all__ = ["notes", "report_data", "write_report"]


def write_report(
    suite: StepCostSuite, found: Sequence[Costs], folder: Path, tracking_uri: str, typed: str, form: Form = "html"
) -> Path:
    """Writes the page and the figures' files into ``folder``, as the report of a training suite does."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = cost_figures(suite, summaries(suite, found), folder)
    return write_page(
        "stepcost",
        folder,
        form,
        **report_data(suite, found),
        notes=notes(suite, found),
        figures={caption: figure_address(path, form) for caption, path in figures.items()},
        tracking_uri=tracking_uri,
        typed=typed,
    )


def report_data(suite: StepCostSuite, found: Sequence[Costs]) -> dict[str, Any]:
    """Everything the page says, figures aside."""
    label = Labels(suite)
    table = summaries(suite, found)
    return {
        "suite": suite,
        "methods": [label.method(method) for method in suite.methods],
        "cells": [{"cell": label.cell(summary.costs.cell), "summary": summary} for summary in table],
        "answers": [_answer(label.method(rival), index, table) for index, rival in enumerate(suite.methods[1:])],
        "growths": growths(suite, found),
        "crossovers": crossovers(suite, table),
        "phases": list(dict.fromkeys(name for summary in table for name in summary.phases)),
        "least_effect": LEAST_EFFECT,
        "troubles": [
            {"result": result, "cell": label.cell(costs.cell)}
            for costs in found
            for result in costs.results
            if result.outcome != "completed"
        ],
        **provenance([result for costs in found for result in costs.results]),
    }


def notes(suite: StepCostSuite, found: Sequence[Costs]) -> list[str]:
    """What a reader must know before believing the numbers."""
    results = [result for costs in found for result in costs.results]
    said = provenance_notes(results, suite.size())
    noisy = sum(summary.noisy for summary in summaries(suite, found))
    if noisy:
        said.append(
            f"In {counted(noisy, 'cell')} the machine was too noisy for a verdict: equal code took different times. "
            "Run them again on a quiet machine."
        )
    uncounted = sum(
        parameters(costs.results) is None for costs in found if any(r.costs is not None for r in costs.results)
    )
    if uncounted:
        said.append(
            f"{counted(uncounted, 'cell')}, timed by a version that did not count parameters: no part of the exponents "
            "in their number."
        )
    return said


def _answer(rival: str, index: int, table: Sequence[CellSummary]) -> dict[str, Any]:
    ratios = [summary.ratios[index] for summary in table if summary.ratios[index].value.size]
    verdicts = [ratio.verdict for ratio in ratios]
    medians = [ratio.value.median for ratio in ratios]
    return {
        "rival": rival,
        "better": verdicts.count("better"),
        "worse": verdicts.count("worse"),
        "open": verdicts.count("open"),
        "range": (min(medians), max(medians)) if medians else None,
    }
