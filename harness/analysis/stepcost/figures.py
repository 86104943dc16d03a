"""Figures of step costs: the ratio to each rival along the sweep, and where a step's time goes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ...stepcost_suite import StepCostSuite
from ..labels import Labels
from .summary import CellSummary

__all__ = ["cost_figures"]

MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]


def cost_figures(suite: StepCostSuite, found: Sequence[CellSummary], folder: Path) -> dict[str, Path]:
    """Draws SVG and PNG files into ``folder``.

    Returns:
        Caption → the SVG file. Empty if nothing has been timed.
    """
    timed = [summary for summary in found if summary.again.size]
    if not timed:
        return {}
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind", font_scale=1.1)
    label = Labels(suite)
    ours = label.method(suite.methods[0])
    figures = {"Step of {} over its rivals', with 95% intervals": ("step_ratio", _ratios(timed, label))}
    if any(summary.phases for summary in timed):
        figures["Parts of a step of {}, in units of one gradient"] = ("step_phases", _phases(timed, label))
    drawn = {}
    for caption, (stem, figure) in figures.items():
        for suffix in (".svg", ".png"):
            figure.savefig(folder / f"{stem}{suffix}", dpi=150, bbox_inches="tight")
        plt.close(figure)
        drawn[caption.format(ours)] = folder / f"{stem}.svg"
    return drawn


def _ratios(found: Sequence[CellSummary], label: Labels) -> Figure:
    """Ratio against width, one line a rest of the cell, one panel a rival."""
    rivals = list(dict.fromkeys(label.method(ratio.rival) for summary in found for ratio in summary.ratios))
    rests = list(dict.fromkeys(label.cell(s.costs.cell, without=("width",)) for s in found))
    colours = dict(zip(rests, sns.color_palette("colorblind", len(rests)), strict=True))
    widths = sorted({s.costs.cell.problem.width for s in found})
    figure, panels = plt.subplots(
        1, len(rivals), sharey=True, squeeze=False, figsize=(1.2 + 3.4 * len(rivals), 3.2), layout="constrained"
    )
    for panel, rival in zip(panels.flat, rivals, strict=True):
        for rest, marker in zip(rests, (MARKERS * len(rests))[: len(rests)], strict=True):
            points = sorted(
                (s.costs.cell.problem.width, ratio.value)
                for s in found
                if label.cell(s.costs.cell, without=("width",)) == rest
                for ratio in s.ratios
                if label.method(ratio.rival) == rival
            )
            values = [value for _, value in points]
            panel.errorbar(
                [width for width, _ in points],
                [value.median for value in values],
                yerr=[[v.median - v.low for v in values], [v.high - v.median for v in values]],
                label=rest, marker=marker, color=colours[rest], capsize=2, markersize=4, linewidth=1.2,
            )  # fmt: skip
        panel.axhline(1, color="0.3", linewidth=0.8, linestyle=":")
        panel.set(xscale="log", xlabel="width", title=f"over {rival}", xticks=widths)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_ylim(bottom=0)
    panels.flat[0].set_ylabel("ratio of step times")
    if len(rests) > 1:
        handles, names = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncol=min(len(rests), 4), frameon=False)
    return figure


def _phases(found: Sequence[CellSummary], label: Labels) -> Figure:
    """One bar a cell, stacked by phase."""
    frame = pd.DataFrame({label.cell(s.costs.cell): s.phases for s in found if s.phases}).T
    figure, panel = plt.subplots(figsize=(7.2, 0.9 + 0.32 * len(frame)), layout="constrained")
    left = pd.Series(0.0, index=frame.index)
    hatches = ["", "//", "..", "xx", "\\\\"]  # told apart in print without colour
    for name, colour, hatch in zip(frame.columns, sns.color_palette("colorblind"), hatches, strict=False):
        panel.barh(
            frame.index, frame[name], left=left, label=name, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5
        )
        left += frame[name]
    panel.invert_yaxis()
    panel.axvline(1, color="0.3", linewidth=0.8, linestyle=":")
    panel.set_xlabel("gradients (forward and backward pass of the loss)")
    panel.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncol=len(frame.columns), frameon=False)
    return figure
