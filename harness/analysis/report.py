"""One self-contained HTML page: the answer first, then tables, figures, settings, environment."""

import base64
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..store import write_atomically
from ..suite import Suite
from ..sweep import Contender
from .figures import NAMES, curve_figures
from .statistics import Interval
from .summary import Comparison, cell_label, comparisons, rows, settings_label, varying

__all__ = ["report_data", "write_report"]

OURS = "ggn"


def write_report(suite: Suite, contenders: Sequence[Contender], folder: Path, tracking_uri: str) -> Path:
    """Writes ``index.html`` and the figures' files into ``folder``.

    Returns:
        The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {caption: _embedded(path) for caption, path in curve_figures(suite, contenders, folder).items()}
    environment = Environment(
        loader=PackageLoader("harness.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"interval": interval, "ratio": ratio, "number": number}
    page = environment.get_template("report.html.j2").render(
        **report_data(suite, contenders),
        names=NAMES,
        figures=figures,
        tracking_uri=tracking_uri,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path = folder / "index.html"
    write_atomically(path, page)
    return path


def report_data(suite: Suite, contenders: Sequence[Contender]) -> dict[str, Any]:
    """Everything the page says, figures aside."""
    names = varying(suite)
    results = [result for contender in contenders for result in contender.evaluations]
    table = rows(contenders)
    expected = len(contenders) * len(suite.seeds)
    return {
        "suite": suite,
        "rows": [{"cell": cell_label(row.contender.cell, names), "row": row} for row in table],
        "comparisons": [{"cell": cell_label(item.cell, names), "item": item} for item in comparisons(contenders, OURS)],
        "answers": _answers(comparisons(contenders, OURS)),
        "settings": [
            {
                "cell": cell_label(contender.cell, names),
                "method": contender.method,
                "chosen": settings_label(contender),
                "candidates": contender.candidates,
            }
            for contender in contenders
        ],
        "unit": next((result.data.unit for result in results if result.data is not None), ""),
        "data": next((result.data for result in results if result.data is not None), None),
        "environments": _distinct([result.environment for result in results if result.environment]),
        "done": len(results),
        "expected": expected,
        "troubles": [result for result in results if result.outcome != "completed"],
    }


def _answers(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """For each rival and measure, in how many cells GGN is better, worse, or not told apart."""
    answers = []
    for rival in dict.fromkeys(item.rival for item in found):
        against = [item for item in found if item.rival == rival]
        for measure, label in (
            ("epochs_to_target", "epochs to the target"),
            ("seconds_to_target", "seconds to the target"),
            ("best_test_rmse", "best test error"),
        ):
            intervals = [getattr(item, measure) for item in against]
            known = [x for x in intervals if x.size]
            answers.append(
                {
                    "rival": rival,
                    "measure": label,
                    "better": sum(x.high < 1 for x in known),
                    "worse": sum(x.low > 1 for x in known),
                    "cells": len(intervals),
                    "range": (min(x.median for x in known), max(x.median for x in known)) if known else None,
                }
            )
    return answers


def number(value: float, digits: int = 3) -> str:
    """A number in ``digits`` significant digits; a miss reads as such."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "missed"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def interval(value: Interval) -> str:
    if value.size == 0:
        return "–"
    return f"{number(value.median)} [{number(value.low)}, {number(value.high)}]"


def ratio(value: Interval) -> str:
    """Like an interval, with an infinite ratio as ∞: the first of the pair missed."""
    return "–" if value.size == 0 else interval(value).replace("missed", "∞")


def _distinct(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({tuple(record.items()): record for record in records}.values())


def _embedded(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
