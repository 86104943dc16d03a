"""One self-contained HTML page, or Markdown: the answer first, then tables, figures, settings, environment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ...trial import TrialResult
from ...wording import counted
from .. import labels
from ..labels import Labels
from ..page import Form, figure_address, provenance, provenance_notes, write_page
from ..sensitivity import NEAR
from ..statistics import MIN_PAIRS
from .figures import curve_figures
from .overall import crossovers, overall, scalings
from .summary import Comparison, comparisons, gains, rows
from .tuning import sensitivities
from .tuning_figures import sensitivity_figures

__all__ = ["notes", "report_data", "write_report"]

MEASURES = {
    "epochs_to_target": "epochs to the target",
    "seconds_to_target": "seconds to the target",
    "best_test_rmse": "best test error",
}


def write_report(
    suite: TrainingSuite,
    contenders: Sequence[Contender],
    folder: Path,
    tracking_uri: str,
    typed: str,
    form: Form = "html",
) -> Path:
    """Writes ``index.html`` or ``report.md``, and the figures' files, into ``folder``.

    Args:
        suite: What was asked.
        contenders: What was found.
        folder: Made if it is not there.
        tracking_uri: Where the runs are recorded.
        typed: What names the suite on the command line, its name or its file.
        form: The page's format.

    Returns:
        The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = curve_figures(suite, contenders, folder)
    sensitivity = sensitivity_figures(suite, contenders, folder)
    return write_page(
        "training",
        folder,
        form,
        **report_data(suite, contenders),
        notes=notes(suite, contenders),
        figures={caption: figure_address(path, form) for caption, path in drawn.items()},
        sensitivity_figures={caption: figure_address(path, form) for caption, path in sensitivity.items()},
        tracking_uri=tracking_uri,
        typed=typed,
    )


def report_data(suite: TrainingSuite, contenders: Sequence[Contender]) -> dict[str, Any]:
    """Everything the page says, figures aside."""
    label = Labels(suite)
    results = [result for contender in contenders for result in contender.results]
    found = comparisons(suite, contenders)
    return {
        "suite": suite,
        "rows": [
            {
                "cell": label.cell(row.contender.cell),
                "method": label.variant(row.contender.method, row.settings),
                "target": suite.target_of(row.contender.cell.problem),
                "unit": row.contender.cell.problem.target_unit,
                "row": row,
            }
            for row in rows(suite, contenders)
        ],
        "comparisons": [
            {
                "cell": label.cell(item.ours.cell),
                "ours": label.method(item.ours.method),
                "rival": label.method(item.rival.method),
                "item": item,
            }
            for item in found
        ],
        "answers": _answers(found, label),
        "overall": overall(suite, found),
        "scalings": scalings(suite, contenders),
        "crossovers": crossovers(suite, found),
        "gains": [
            {
                "cell": label.cell(gain.contender.cell),
                "method": label.method(gain.contender.method),
                "default": labels.settings(gain.contender.method),
                "chosen": labels.settings(gain.contender.settings) if gain.contender.settings else "search incomplete",
                "gain": gain,
            }
            for gain in gains(suite, contenders)
        ],
        "sensitivities": sensitivities(suite, contenders),
        "near": NEAR,
        "measures": MEASURES,
        "settings": [
            {
                "cell": label.cell(contender.cell),
                "method": label.method(contender.method),
                "chosen": labels.settings(contender.settings) if contender.settings else "search incomplete",
                "candidates": contender.candidates,
            }
            for contender in contenders
        ],
        "min_pairs": MIN_PAIRS,
        **provenance(results),
        "troubles": [
            {"result": result, "cell": label.cell(contender.cell), "method": label.variant(contender.method, settings)}
            for contender in contenders
            for settings, results in _by_settings(suite, contender).items()
            for result in results
            if result.outcome != "completed"
        ],
    }


def notes(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[str]:
    """What a reader must know before believing the numbers."""
    results = [result for contender in contenders for result in contender.results]
    untuned = sum(suite.compares_untuned(contender.method) for contender in contenders)
    found = provenance_notes(results, (len(contenders) + untuned) * len(suite.seeds))
    if len(suite.seeds) < MIN_PAIRS:
        found.append(
            f"Too few to tell a difference from chance: {counted(len(suite.seeds), 'seed')}; give at least {MIN_PAIRS}."
        )
    at_once = sum(result.at_target(suite.target_of(result.trial.problem), "epoch") == 0 for result in results)
    if at_once:
        found.append(f"{counted(at_once, 'trial')} met the target before training: the target is too easy.")
    return found


def _by_settings(suite: TrainingSuite, contender: Contender) -> dict[str, list[TrialResult]]:
    """The evaluations by the kind of their settings: "tuned" and "default" where both are there, else ""."""
    both = suite.compares_untuned(contender.method)
    return {"tuned": contender.evaluations, "default": contender.untuned} if both else {"": contender.evaluations}


def _answers(found: Sequence[Comparison], label: Labels) -> list[dict[str, Any]]:
    """For each pair of methods and each measure, in how many cells GGN is better, worse, or not told apart."""
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for item in found:
        pairs.setdefault((label.method(item.ours.method), label.method(item.rival.method)), []).append(item)
    answers = []
    for (ours, rival), items in pairs.items():
        for measure, words in MEASURES.items():
            # Where one of the two was not run, as GGN on BatchNorm, nothing was compared.
            intervals = [x for item in items if (x := getattr(item, measure)).size]
            verdicts = [x.verdict for x in intervals]
            known = [x.median for x in intervals]
            answers.append(
                {
                    "pair": f"{ours} against {rival}",
                    "measure": words,
                    "better": verdicts.count("better"),
                    "worse": verdicts.count("worse"),
                    "cells": len(intervals),
                    "range": (min(known), max(known)) if known else None,
                }
            )
    return answers
