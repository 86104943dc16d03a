"""Figures of a sweep. Lines are medians over seeds, bands run from the lowest seed to the highest."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ..figure_files import saved
from ..labels import Labels, spelled
from .overall import FACTORS, profiles

__all__ = ["curve_figures"]

DASHES = ["", (4, 1.5), (1, 1), (3, 1, 1, 1)]  # told apart in print without colour

AXES = {"epoch": "epochs", "seconds": "seconds of training", "gradients": "gradient-equivalents"}
DRAWN = [("train_loss", axis) for axis in AXES] + [("test_rmse", "epoch"), ("test_rmse", "seconds")]
LOSS = "training loss (MSE, standardised)"


def curve_figures(suite: TrainingSuite, contenders: Sequence[Contender], folder: Path) -> dict[str, Path]:
    """Draws training loss and test error against epochs and seconds, one panel a cell; SVG and PNG files.

    The loss also against gradient-equivalents, where all results tell their unit.

    Returns:
        Caption → the SVG file. Empty if nothing has been evaluated.
    """
    frame = _frame(suite, contenders)
    if frame.empty:
        return {}
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind", font_scale=1.1)
    units = {problem.target_unit for problem in suite.problem}
    unit = units.pop() if len(units) == 1 else "in each target's unit"
    error = f"test RMSE ({unit})" if unit else "test RMSE"
    drawn = {}
    for quantity, axis in DRAWN:
        if frame[axis].isna().any():
            continue
        label = LOSS if quantity == "train_loss" else error
        # The loss is on standardised targets everywhere; errors of several problems share no scale.
        shared = quantity == "train_loss" or len({problem.label for problem in suite.problem}) == 1
        figure = _panels(frame, axis, quantity, label, shared)
        drawn[f"{label[0].upper()}{label[1:]} against {AXES[axis]}"] = saved(figure, folder / f"{quantity}_by_{axis}")
    return drawn | profile_figure(suite, contenders, folder)


def profile_figure(suite: TrainingSuite, contenders: Sequence[Contender], folder: Path) -> dict[str, Path]:
    """Draws the performance profiles of epochs and seconds to the target; SVG and PNG files."""
    found = {key: profiles(suite, contenders, key) for key in ("epochs_to_target", "seconds_to_target")}
    if not all(found.values()):
        return {}
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(7.6, 3.0), layout="constrained")
    for panel, (key, shares) in zip(panels, found.items(), strict=True):
        for (name, share), dashes in zip(shares.items(), _dashes(len(shares)), strict=True):
            panel.plot(FACTORS, share, label=name, dashes=dashes or (None, None), drawstyle="steps-post")
        panel.set(title=spelled(key), xlabel="within this factor of the best method", ylim=(-0.02, 1.02))
    panels[0].set_ylabel("share of seeds and cells")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncol=4, frameon=False)
    caption = "Performance profiles: the share of seeds and cells that a method brings to the target"
    return {caption: saved(figure, folder / "profiles")}


def _dashes(count: int) -> list[Any]:
    return (DASHES * count)[:count]


def _frame(suite: TrainingSuite, contenders: Sequence[Contender]) -> pd.DataFrame:
    """One row an evaluation point of a contender: of each quantity the median over seeds, the least and the greatest.

    ``seconds`` is the median too, so that seeds share an axis; ``gradients`` the same in units of one gradient, NaN
    where a result does not tell the unit.
    """
    name = Labels(suite)
    records = []
    for contender in contenders:
        results = [result for result in contender.evaluations if result.curve.epoch]
        units = [result.gradient_seconds for result in results if result.gradient_seconds is not None]
        unit = float(np.median(units)) if units and len(units) == len(results) else math.nan
        for i in range(max((len(result.curve.epoch) for result in results), default=0)):
            reached = [result.curve for result in results if i < len(result.curve.epoch)]
            seconds = float(np.median([curve.seconds[i] for curve in reached]))
            record = {
                "cell": name.cell(contender.cell),
                "target": suite.target_of(contender.cell.problem),
                "method": name.method(contender.method),
                "epoch": reached[0].epoch[i],
                "seconds": seconds,
                "gradients": seconds / unit,
            }
            for quantity in ("train_loss", "test_rmse"):
                values = [getattr(curve, quantity)[i] for curve in reached]
                record |= {
                    quantity: float(np.median(values)),
                    f"{quantity}_least": min(values),
                    f"{quantity}_greatest": max(values),
                }
            records.append(record)
    return pd.DataFrame.from_records(records)


def _panels(frame: pd.DataFrame, axis: str, quantity: str, label: str, shared: bool) -> Figure:
    cells = frame["cell"].nunique()
    methods = list(frame["method"].unique())
    colours = dict(zip(methods, sns.color_palette(n_colors=len(methods)), strict=True))
    grid = sns.relplot(
        data=frame,
        x=axis,
        y=quantity,
        hue="method",
        style="method",
        palette=colours,
        dashes=DASHES[: len(methods)] if len(methods) <= len(DASHES) else True,
        hue_order=methods,
        style_order=methods,
        col="cell",
        col_wrap=min(cells, 2 if cells <= 4 else 3),
        kind="line",
        estimator=None,
        errorbar=None,
        height=3.0,
        aspect=1.35,
        facet_kws={"sharex": axis == "epoch", "sharey": shared},
    )
    for (cell, method), points in frame.groupby(["cell", "method"], sort=False):
        grid.axes_dict[cell].fill_between(
            points[axis], points[f"{quantity}_least"], points[f"{quantity}_greatest"],
            color=colours[method], alpha=0.2, linewidth=0,
        )  # fmt: skip
    grid.set_axis_labels(AXES[axis], label)
    grid.set_titles("{col_name}")
    targets = frame.drop_duplicates("cell").set_index("cell")["target"]
    for cell, panel in grid.axes_dict.items():
        _dress(panel, quantity, targets[cell])
    columns = min(len(methods), 4)
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.45, 1.0), ncol=columns, title=None, frameon=False)
    figure: Figure = grid.figure
    return figure


def _dress(panel: Axes, quantity: str, target: float) -> None:
    panel.set_yscale("log")
    panel.set_xlim(left=0)
    panel.xaxis.set_major_locator(MaxNLocator(5))  # more labels would touch
    # Plain numbers (0.05, 6, 20), not powers of ten: the curves stay within a decade or two.
    panel.yaxis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 4.0, 6.0, 8.0) if quantity == "test_rmse" else (1.0, 2.0, 5.0))
    )
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if quantity == "train_loss":
        panel.axhline(target, color="0.3", linewidth=0.8, linestyle=":")
        panel.annotate(
            "target", (1, target), xycoords=("axes fraction", "data"), xytext=(-2, 2), textcoords="offset points",
            ha="right", va="bottom", fontsize="small", color="0.3",
        )  # fmt: skip
