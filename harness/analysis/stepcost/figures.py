"""Figures of step costs: the ratio to each rival along the sweep, and where a step's time goes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ...stepcost_suite import StepCostSuite
from ..figure_files import saved
from ..labels import Labels, spelled
from .growth import AXES
from .summary import CellSummary

__all__ = ["cost_figures"]

MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", (0, (1, 1))]  # told apart in print without colour


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
    figures = {
        "Step of {} over its rivals': medians, bands of 95% intervals": ("step_ratio", _ratios(suite, timed, label))
    }
    if any(summary.phases for summary in timed):
        figures["Parts of a step of {}, in units of one gradient"] = ("step_phases", _phases(timed, label))
    drawn = {}
    for caption, (stem, figure) in figures.items():
        drawn[caption.format(ours)] = saved(figure, folder / stem)
    return drawn


def _ratios(suite: StepCostSuite, found: Sequence[CellSummary], label: Labels) -> Figure:
    """Ratio against width, one line a rival, one panel a rest of the cell; against batch size where no width varies."""
    axis = next((axis for axis in AXES if axis in label.numeric_axes(2)), AXES[0])
    panels_of: dict[str, list[CellSummary]] = {}
    for summary in sorted(found, key=lambda summary: label.value(summary.costs.cell, axis)):
        panels_of.setdefault(label.cell(summary.costs.cell, without=(axis,)), []).append(summary)
    columns = min(len(panels_of), 3)
    lines = -(-len(panels_of) // columns)
    figure, panels = plt.subplots(
        lines, columns, sharex=True, sharey=True, squeeze=False, figsize=(1.2 + 2.9 * columns, 0.5 + 2.7 * lines),
        layout="constrained",
    )  # fmt: skip
    colours = sns.color_palette("colorblind", len(suite.methods) - 1)
    for panel, (rest, cells) in zip(panels.flat, panels_of.items(), strict=False):
        sizes = [label.value(summary.costs.cell, axis) for summary in cells]
        for index, colour in enumerate(colours):
            ratios = [summary.ratios[index] for summary in cells]
            values = [ratio.value for ratio in ratios]
            style = {"color": colour, "linestyle": DASHES[index % len(DASHES)]}
            panel.plot(
                sizes, [value.median for value in values], label=label.method(ratios[0].rival), linewidth=1.4,
                marker=MARKERS[index % len(MARKERS)], markersize=5, **style,
            )  # fmt: skip
            panel.fill_between(
                sizes, [value.low for value in values], [value.high for value in values], color=colour, alpha=0.25,
                linewidth=0,
            )  # fmt: skip
        panel.axhline(1, color="0.2", linewidth=1.0)
        panel.axhline(suite.margin, color="0.35", linewidth=0.9, linestyle=":")
        panel.set_title(rest)
    for panel in panels.flat[len(panels_of) :]:
        panel.set_visible(False)
    measured = sorted({label.value(summary.costs.cell, axis) for summary in found})
    for panel in panels.flat:
        panel.set(xscale="log", yscale="log", xlabel=spelled(axis), xticks=measured)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_major_locator(LogLocator(subs=_subdivisions(panel)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.label_outer()
    figure.supylabel("ratio of step times", fontsize="medium")
    handles, names = panels.flat[0].get_legend_handles_labels()
    handles += [
        Line2D([], [], color="0.2", linewidth=1.0),
        Line2D([], [], color="0.35", linewidth=0.9, linestyle=":"),
    ]
    names = [f"over {name}" for name in names] + ["equal", f"{suite.margin:g} times"]
    figure.legend(handles, names, loc="outside upper center", ncol=min(len(names), 5), frameon=False)
    return figure


def _subdivisions(panel: Axes) -> tuple[float, ...]:
    """Of a decade: where the ticks of a ratio stand, the more the less it varies."""
    low, high = panel.get_ylim()
    return (1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 4, 5, 7) if high / low > 2 else (1, 1.2, 1.4, 1.6, 1.8, 8, 9)


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
