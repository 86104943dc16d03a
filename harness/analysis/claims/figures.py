"""One figure a claim."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ...claims.check import CheckedClaim, CheckedPart
from ...claims.estimands import loss_at, paper_letters
from ...claims.verdict import Verdict
from ...studies import StepCostStudy, TheoryStudy, TrainingStudy
from ..figure_files import saved
from ..stepcost.figures import cost_figures
from ..stepcost.summary import summaries
from ..theory.figures import link_figure, order_figure, pace_figure
from ..theory.summary import records

__all__ = ["VERDICT_COLOURS", "claim_figure"]

VERDICT_COLOURS = {
    Verdict.REPRODUCED: "#2a7f4f",
    Verdict.PARTIAL: "#9a7400",
    Verdict.NOT_REPRODUCED: "#b3401f",
    Verdict.INCONCLUSIVE: "#5f6b7a",
    Verdict.NOT_ATTEMPTED: "#8a8a8a",
}

THEORY: dict[str, tuple[str, Callable[..., Figure]]] = {
    "gap": ("One step against kernel regression on held-out inputs: the relative gap, one point a seed", link_figure),
    "order": ("Full-batch steps: residuals after and before, along the steps, and the first factor", order_figure),
    "pace": ("Passes over fixed mini-batches beside block Gauss–Seidel on the tangent kernel", pace_figure),
}


def claim_figure(checked: CheckedClaim, folder: Path) -> tuple[str, Path] | None:
    """Draws the figure of a claim as SVG and PNG files into ``folder``.

    Returns:
        Its caption and the SVG file; None if nothing has been measured that it could show.
    """
    stem = folder / checked.claim.claim
    kind = checked.claim.figure
    study = next(iter(checked.studies.values()))
    if kind in THEORY:
        assert isinstance(study, TheoryStudy)
        caption, draw = THEORY[kind]
        return (caption, saved(draw(study.found), stem)) if any(True for _ in records(study.found)) else None
    if kind == "step_ratio":
        assert isinstance(study, StepCostStudy)
        suite = study.suite.model_copy(update={"margin": checked.claim.parts[0].accept.high})
        drawn = cost_figures(suite, summaries(suite, study.found), folder)
        return next(iter(drawn.items()), None)
    if kind == "grid":
        assert isinstance(study, TrainingStudy)
        figure = _grid(study, epoch=checked.claim.parts[0].estimand.model_dump()["epoch"])
        caption = "Training loss over the (λ, α) grid, median over seeds"
    else:
        figure = _ratios(checked.parts)
        caption = "Ratios with 95% intervals; filled: decides, hollow: only shown; dashed: the margin"
    return None if figure is None else (caption, saved(figure, stem))


def _ratios(parts: Sequence[CheckedPart]) -> Figure | None:
    """One row a part: its ratio with its interval, beside its margin."""
    shown = [checked for checked in parts if math.isfinite(checked.estimate.value) and checked.estimate.value > 0]
    if not shown:
        return None
    sns.set_theme(style="whitegrid", context="paper", font_scale=1.05)
    figure, panel = plt.subplots(figsize=(7.6, 0.9 + 0.3 * len(shown)), layout="constrained")
    ends = [x for c in shown for x in (c.estimate.low, c.estimate.high) if 0 < x < math.inf]
    low, high = min([*ends, 0.5]) * 0.85, max([*ends, 1.0]) * 1.2
    for row, checked in enumerate(shown):
        estimate, colour = checked.estimate, VERDICT_COLOURS[checked.verdict.verdict]
        left, right = max(estimate.low, low), min(estimate.high, high)
        panel.plot([left, right], [row, row], color=colour, linewidth=1.6)
        face = colour if checked.part.decides else "white"
        panel.plot(estimate.value, row, "o", color=colour, markerfacecolor=face, markersize=6)
        margin = checked.part.accept.high
        panel.plot([margin, margin], [row - 0.4, row + 0.4], color="0.25", linewidth=1.0, linestyle="--")
    panel.axvline(1, color="0.6", linewidth=0.8)
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    steps = (1, 2, 5) if high / low > 4 else (1, 1.1, 1.2, 1.5, 2, 3, 5, 7, 8, 9)
    panel.xaxis.set_major_locator(LogLocator(subs=steps))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_yticks(range(len(shown)), [checked.part.part for checked in shown])
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("GGN / rival; below 1 favours GGN")
    return figure


def _grid(study: TrainingStudy, epoch: int) -> Figure | None:
    """A heat map for each problem: λ downwards, α to the right."""
    losses: dict[str, dict[tuple[float, float], list[float]]] = {}
    for contender in study.found:
        if contender.evaluations:
            place = losses.setdefault(contender.cell.problem.label, {})
            place[paper_letters(contender)] = [loss_at(result, epoch) for result in contender.evaluations]
    if not losses:
        return None
    sns.set_theme(style="white", context="paper", font_scale=1.05)
    columns = max(len({alpha for _, alpha in cells}) for cells in losses.values())
    figure, panels = plt.subplots(
        1, len(losses), squeeze=False, figsize=(len(losses) * (1.8 + 0.75 * columns), 3.1), layout="constrained"
    )
    for panel, (problem, cells) in zip(panels.flat, losses.items(), strict=True):
        frame = pd.Series({place: float(np.median(values)) for place, values in cells.items()}).unstack()
        finite = frame.replace(math.inf, np.nan)
        sns.heatmap(
            np.log10(finite), ax=panel, annot=frame.map(lambda loss: f"{loss:.2g}"), fmt="", cmap="viridis_r",
            linewidths=0.5, cbar_kws={"label": f"log₁₀ training loss at epoch {epoch}"},
        )  # fmt: skip
        panel.set(xlabel="α", ylabel="λ", title=problem)
        panel.set_xticklabels([f"{alpha:g}" for alpha in frame.columns])
        panel.set_yticklabels([f"{lam:g}" for lam in frame.index], rotation=0)
    return figure
