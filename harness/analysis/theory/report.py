"""The page of a theory suite."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sweep import Costs
from ...theory_suite import TheorySuite
from ..labels import Labels
from ..page import Form, figure_address, provenance, provenance_notes, write_page
from .figures import NAMES, theory_figures
from .summary import activations, gap_exponent, order, summaries, width_exponent

__all__ = ["notes", "report_data", "write_report"]


def write_report(
    suite: TheorySuite, found: Sequence[Costs], folder: Path, tracking_uri: str, typed: str, form: Form = "html"
) -> Path:
    """Writes the page and the figures' files into ``folder``, as the report of a training suite does."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = theory_figures(found, folder)
    return write_page(
        "theory",
        folder,
        form,
        **report_data(suite, found),
        notes=notes(suite, found),
        figures={caption: figure_address(path, form) for caption, path in figures.items()},
        tracking_uri=tracking_uri,
        typed=typed,
    )


def report_data(suite: TheorySuite, found: Sequence[Costs]) -> dict[str, Any]:
    """Everything the page says, figures aside."""
    label = Labels(suite)
    results = [result for costs in found for result in costs.results]
    return {
        "suite": suite,
        "cells": [{"cell": label.cell(summary.costs.cell), "summary": summary} for summary in summaries(found)],
        "fits": [
            {
                "activation": NAMES[name],
                "gap": gap_exponent(found, name),
                "order": order(found, name),
                "width": width_exponent(found, name),
            }
            for name in activations(found)
        ],
        "troubles": [result for result in results if result.outcome != "completed"],
        **provenance(results),
    }


def notes(suite: TheorySuite, found: Sequence[Costs]) -> list[str]:
    """What a reader must know before believing the numbers."""
    return provenance_notes([result for costs in found for result in costs.results], suite.size())
