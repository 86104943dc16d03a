"""How much each method's settings matter, one figure a problem."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ...frozen import short
from ...sweep import Contender
from ...training_suite import TrainingSuite
from ..figure_files import saved
from ..labels import Labels, spelled
from ..sensitivity import NEAR, relative
from .tuning import searched

__all__ = ["sensitivity_figures"]

HIGHEST = 1e2  # times the best loss: what lies above is drawn at the upper edge, and so is what broke off


def sensitivity_figures(suite: TrainingSuite, contenders: Sequence[Contender], folder: Path) -> dict[str, Path]:
    """Draws SVG and PNG files into ``folder``.

    Returns:
        Caption → the SVG file, one a problem whose searches are finished.
    """
    label = Labels(suite)
    by_problem: dict[str, list[Contender]] = {}
    for contender in searched(contenders):
        by_problem.setdefault(contender.cell.problem.label, []).append(contender)
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind", font_scale=1.1)
    drawn = {}
    for index, (problem, found) in enumerate(by_problem.items()):
        figure = _panels(suite, found, label)
        on = f" on {problem}" if len(by_problem) > 1 else ""
        drawn[f"Training loss of the searched settings{on}, over each method's best: medians and range over cells"] = (
            saved(figure, folder / f"sensitivity_{index}")
        )
    return drawn


def _panels(suite: TrainingSuite, found: Sequence[Contender], label: Labels) -> Figure:
    """One panel a method: its first setting to the right, a line for each combination of the others."""
    assert suite.tuning is not None
    methods = list(dict.fromkeys(contender.method for contender in found))
    figure, panels = plt.subplots(
        1, len(methods), sharey=True, squeeze=False, figsize=(1.0 + 2.7 * len(methods), 3.1), layout="constrained"
    )
    highest = 1.0
    for panel, method in zip(panels.flat, methods, strict=True):
        space = suite.tuning.spaces[method.name]
        frame = _frame([contender for contender in found if contender.method == method], space)
        highest = max(highest, frame["ratio"].max())
        _lines(panel, frame, _axis(space))
        panel.set_title(label.method(method))
    for panel in panels.flat:
        panel.axhspan(1, NEAR, color="0.88", zorder=0)
        panel.set_yscale("log")
        panel.set_ylim(0.9, highest * 1.3)
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(_times))
        panel.set_ylabel("")
    panels.flat[0].set_ylabel("loss over the best setting's")
    return figure


def _frame(contenders: Sequence[Contender], space: dict[str, Any]) -> pd.DataFrame:
    """One row a setting and cell: where it stands, what else it sets, and its loss over the best."""
    axis = _axis(space)
    records = []
    for contender in contenders:
        ratios = relative([candidate.final_train_loss for candidate in contender.candidates])
        for candidate, ratio in zip(contender.candidates, ratios, strict=True):
            settings = candidate.settings.settings
            others = [f"{key.replace('_', ' ')} {short(settings[key])}" for key in space if key != axis]
            place = settings[axis] if _is_number(settings[axis]) else short(settings[axis])
            records.append({"place": place, "others": ", ".join(others), "ratio": min(ratio, HIGHEST)})
    return pd.DataFrame.from_records(records)


def _lines(panel: Axes, frame: pd.DataFrame, axis: str) -> None:
    several = frame["others"].nunique() > 1
    sns.lineplot(
        frame, x="place", y="ratio", hue="others", style="others", markers=True, dashes=True, estimator="median",
        errorbar=("pi", 100), markersize=6, linewidth=1.4, legend="full" if several else False, ax=panel,
    )  # fmt: skip
    places = frame["place"].unique()
    if all(map(_is_number, places)) and min(places) > 0:
        panel.set_xscale("log")
        panel.set_xticks(sorted(places))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.tick_params(axis="x", labelrotation=45 if len(places) > 4 else 0)
    panel.set_xlabel(spelled(axis))
    if several:
        panel.legend(title=None, frameon=True, fontsize="small")


def _axis(space: dict[str, Any]) -> str:
    """What is drawn to the right: the learning rate, else the first setting with several values."""
    return "lr" if "lr" in space else next((key for key, values in space.items() if len(values) > 1), next(iter(space)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _times(value: float, _: int) -> str:
    return f"≥ {value:g}" if math.isclose(value, HIGHEST) else f"{value:g}"
