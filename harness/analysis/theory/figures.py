"""Figures of a theory suite: the gap against width, the order of convergence, the pace of mini-batches."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...sweep import Costs
from ...trial import Descent, TheoryRecord
from ..figure_files import saved
from .summary import FLOOR, activations, best_descents, gap_exponent, order, records, tail_rate, width_exponent, widths

__all__ = ["link_figure", "order_figure", "pace_figure", "theory_figures"]

MARKERS = {"softplus": "o", "tanh": "s", "relu": "^", "gelu": "D"}
NAMES = {"softplus": "softplus", "tanh": "tanh", "relu": "ReLU", "gelu": "GELU"}


def theory_figures(found: Sequence[Costs], folder: Path) -> dict[str, Path]:
    """Draws SVG and PNG files into ``folder``.

    Returns:
        Caption → the SVG file. Empty if nothing has been measured.
    """
    if not any(True for _ in records(found)):
        return {}
    drawn: dict[str, tuple[str, Callable[[Sequence[Costs]], Figure]]] = {
        "One step against kernel regression on held-out inputs: the relative gap against width": ("gap", link_figure),
        "Convergence of full-batch steps, and its factor against width": ("order", order_figure),
        "Mini-batches: the rate an epoch, measured and predicted": ("pace", pace_figure),
    }
    return {caption: saved(draw(found), folder / stem) for caption, (stem, draw) in drawn.items()}


def link_figure(found: Sequence[Costs]) -> Figure:
    """Gap against width, one point a seed, with the fitted power for each activation."""
    figure, panel = _canvas(1)
    _powers(panel[0], found, lambda record: record.link_gap, lambda a: gap_exponent(found, a).median)
    panel[0].set(ylabel="gap / movement of predictions")
    return figure


def order_figure(found: Sequence[Costs]) -> Figure:
    """Left: residual after a step against before it. Middle: residuals along the steps. Right: the first factor."""
    figure, panels = _canvas(3)
    _orders(panels[0], found)
    _descents(panels[1], found)
    _powers(panels[2], found, _first_factor, lambda a: width_exponent(found, a).median)
    panels[2].set(ylabel="‖r₁‖ / ‖r₀‖²", title="factor of the first step")
    return figure


def pace_figure(found: Sequence[Costs]) -> Figure:
    """Left: residuals along the epochs at the largest width. Right: the measured rate against the predicted one."""
    figure, panels = _canvas(2)
    largest = widths(found)[-1]
    for name, colour in _colours(found):
        chosen = [record for result, record in records(found, name) if result.trial.problem.width == largest]
        for i, record in enumerate(chosen):
            epochs = np.arange(len(record.epoch_residuals))
            measured = [r if r > FLOOR else np.nan for r in record.epoch_residuals]
            panels[0].plot(epochs, measured, color=colour, linewidth=0.9, label=NAMES[name] if i == 0 else None)
            predicted = np.where(np.isnan(measured), np.nan, record.predicted_residuals)
            panels[0].plot(epochs, predicted, color="0.25", linewidth=0.7, linestyle=":")
        every = [record for _, record in records(found, name)]
        predictions = [tail_rate(record.predicted_residuals, record) for record in every]
        rates = [tail_rate(record.epoch_residuals, record) for record in every]
        panels[1].scatter(
            predictions, rates, s=14, color=colour, marker=MARKERS[name], alpha=0.7, label=NAMES[name]
        )  # fmt: skip
    panels[0].set(
        yscale="log", xlabel="epochs", ylabel="‖r‖", title=f"width {largest}; dotted: block Gauss–Seidel"
    )  # fmt: skip
    low = min(panels[1].get_xlim()[0], panels[1].get_ylim()[0])
    panels[1].plot([low, 1], [low, 1], color="0.4", linewidth=0.8, zorder=0)
    panels[1].set(xlabel="rate an epoch, predicted", ylabel="measured", title="all widths and seeds")
    panels[1].legend(frameon=False)
    panels[0].legend(frameon=False)
    return figure


def _orders(panel: Axes, found: Sequence[Costs]) -> None:
    for name, colour in _colours(found):
        pairs = [
            pair
            for _, record in records(found, name)
            for descent in record.descents
            if descent.method.name == "ggn"
            for pair in zip(descent.residuals, descent.residuals[1:], strict=False)
            if pair[1] > FLOOR
        ]
        fitted = order(found, name).median
        if pairs:
            before, after = (list(side) for side in zip(*pairs, strict=True))
            panel.scatter(
                before, after, s=9, color=colour, marker=MARKERS[name], alpha=0.5, linewidth=0,
                label=f"{NAMES[name]}, order {fitted:.2f}",
            )  # fmt: skip
    ends = np.array([1e-5, 1.0])
    panel.plot(ends, 0.3 * ends**2, color="0.3", linewidth=0.9, linestyle="--", label="slope 2")
    panel.set(xscale="log", yscale="log", xlabel="‖r‖ before the step", ylabel="‖r‖ after", title="one point a step")
    panel.legend(frameon=True, fontsize="small", loc="lower right", handletextpad=0.2)


def _descents(panel: Axes, found: Sequence[Costs]) -> None:
    """The methods' best settings on the first activation."""
    name = activations(found)[0]
    for method, label, dash in (("ggn", "GGN", "-"), ("sgd", "gradient descent", "--"), ("adam", "Adam", ":")):
        chosen = best_descents(found, name, method)
        if chosen:
            panel.plot(_median_curve(chosen), dash, marker="o", markersize=3, label=label)
    panel.set(yscale="log", xlabel="full-batch steps", ylabel="‖r‖, median", title=f"{NAMES[name]}, all widths")
    panel.legend(frameon=False, fontsize="small")


def _median_curve(descents: Sequence[Descent]) -> list[float]:
    """Medians over the descents that are still going; it ends when half of them have ended."""
    longest = max(len(d.residuals) for d in descents)
    columns = [[d.residuals[i] for d in descents if i < len(d.residuals)] for i in range(longest)]
    return [float(np.median(column)) for column in columns if 2 * len(column) >= len(descents)]


def _powers(
    panel: Axes, found: Sequence[Costs], value: Callable[[TheoryRecord], float], exponent: Callable[[str], float]
) -> None:
    """A quantity against width on logarithmic axes, with the fitted power through its middle."""
    for name, colour in _colours(found):
        points = np.array([(result.trial.problem.width, value(record)) for result, record in records(found, name)])
        panel.scatter(points[:, 0], points[:, 1], s=12, color=colour, marker=MARKERS[name], alpha=0.6, linewidth=0)
        slope = exponent(name)
        logs = np.log(points[points[:, 1] > 0])
        ends = np.array(panel.dataLim.intervalx)
        fitted = np.exp(logs[:, 1].mean() + slope * (np.log(ends) - logs[:, 0].mean()))
        panel.plot(ends, fitted, color=colour, linewidth=1.2, label=f"{NAMES[name]}: width$^{{{slope:.2f}}}$")
    panel.set(xscale="log", yscale="log", xlabel="width")
    panel.set_xticks(widths(found), [str(width) for width in widths(found)], minor=False, fontsize="small")
    panel.minorticks_off()
    panel.legend(frameon=False, fontsize="small")


def _first_factor(record: TheoryRecord) -> float:
    residuals = record.descents[0].residuals
    return residuals[1] / residuals[0] ** 2 if len(residuals) > 1 else float("nan")


def _colours(found: Sequence[Costs]) -> list[tuple[str, tuple[float, float, float]]]:
    names = activations(found)
    return list(zip(names, sns.color_palette("colorblind", len(names)), strict=True))


def _canvas(count: int) -> tuple[Figure, list[Axes]]:
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind", font_scale=1.05)
    figure, panels = plt.subplots(1, count, squeeze=False, figsize=(1.2 + 3.1 * count, 3.1), layout="constrained")
    return figure, list(panels.flat)
