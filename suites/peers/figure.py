"""The figure of a run: one panel a workload, and below them who is exact where."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: works without a display

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .networks import SHARED
from .peers import OURS
from .record import Record, Row
from .statistics import ratio, rival_ratio, wrong
from .table import number

__all__ = ["draw"]

# Okabe and Ito's colours, told apart by colour-blind readers; form tells the same as colour everywhere.
BLUE, VERMILION, GREY, PALE = "#0072b2", "#d55e00", "#595959", "#e9eef2"
QUANTITIES = {"gram": "Gram matrix", "step": "step"}
MARKERS = {"Gram matrix": "D", "step": "o"}
OFFSET = {"gram": -0.19, "step": 0.19}  # the two lines of a peer that offers both
RIVALS = {"adam": (0, (4, 2)), "adam-fused": (0, (1, 1.5))}


def draw(record: Record, stem: Path) -> None:
    """Writes ``stem``.svg and ``stem``.png."""
    sns.set_theme(style="white", context="paper", font_scale=1.05)
    measured = {row.workload for row in record.rows}
    workloads = [name for name in record.titles["workloads"] if name in measured and name in SHARED]
    frame = _frame(record)
    rows = (len(workloads) + 1) // 2
    heights = [2.9] * rows + [2.5] * bool(record.exactness)
    figure = plt.figure(figsize=(11, sum(heights) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, hspace=0.06, wspace=0.03)
    first: Axes | None = None
    limits = (0.25 * min([1.0, *frame["low"]]), 6 * max([10.0, *frame["high"]]))  # room for the numbers
    for place, workload in enumerate(workloads):
        panel = figure.add_subplot(grid[place // 2, place % 2], sharex=first)
        panel.set_xscale("log")
        panel.set_xlim(limits)
        first = first or panel
        _panel(panel, record, frame[frame["workload"] == workload], workload, labelled=place % 2 == 0)
    if record.exactness:
        _exactness(figure.add_subplot(grid[rows, :]), record)
    _legend(figure)
    for suffix in (".svg", ".png"):
        figure.savefig(stem.with_suffix(suffix), dpi=160, bbox_inches="tight")
    plt.close(figure)


def _frame(record: Record) -> pd.DataFrame:
    """One row a measured ratio."""
    records = []
    for row in record.rows:
        interval = ratio(row)
        if interval is not None:
            records.append(
                {
                    "workload": row.workload,
                    "y": _height(record, row),
                    "quantity": QUANTITIES[row.quantity],
                    "kind": "wrong" if wrong(row) else OURS if row.peer == OURS else "peer",
                    "ratio": interval.median,
                    "low": interval.low,
                    "high": interval.high,
                    "peak_mib": row.peak_mib,
                }
            )
    columns = ["workload", "y", "quantity", "kind", "ratio", "low", "high", "peak_mib"]
    return pd.DataFrame.from_records(records, columns=columns)


def _height(record: Record, row: Row) -> float:
    """The line of a row: in the middle of its peer's place where the peer offers nothing else."""
    offered = {other.quantity for other in record.rows if other.peer == row.peer and other.offered}
    return list(record.versions).index(row.peer) + (OFFSET[row.quantity] if len(offered) > 1 else 0.0)


def _panel(panel: Axes, record: Record, frame: pd.DataFrame, workload: str, labelled: bool) -> None:
    peers = list(record.versions)
    palette = {OURS: BLUE, "peer": GREY, "wrong": VERMILION}
    if OURS in peers:
        panel.axhspan(peers.index(OURS) - 0.5, peers.index(OURS) + 0.5, color=PALE, zorder=0, linewidth=0)
    colors = frame["kind"].map(palette)
    panel.hlines(frame["y"], 1, frame["ratio"], color=colors, linewidth=1.2, alpha=0.45, zorder=1)
    panel.hlines(frame["y"], frame["low"], frame["high"], color=colors, linewidth=3.2, alpha=0.45, zorder=2)
    if not frame.empty:
        sns.scatterplot(
            data=frame, x="ratio", y="y", hue="kind", style="quantity", palette=palette, markers=MARKERS,
            s=48, zorder=3, legend=False, ax=panel,
        )  # fmt: skip
    for point in frame.to_dict("records"):
        ink = palette[point["kind"]]
        left = point["ratio"] < 1  # away from the line at 1
        panel.annotate(
            number(point["ratio"]), (point["low" if left else "high"], point["y"]), xytext=(-6 if left else 6, 0),
            textcoords="offset points", ha="right" if left else "left", va="center", fontsize=8.5, color=ink,
            fontweight="bold" if point["kind"] == OURS else "normal",
        )  # fmt: skip
        if pd.notna(point["peak_mib"]):
            panel.annotate(
                f"{point['peak_mib']:,.0f}", (1.085, point["y"]), xycoords=("axes fraction", "data"),
                ha="right", va="center", fontsize=8, color=ink, annotation_clip=False,
            )  # fmt: skip
    panel.annotate(
        "peak\nMiB", (1.085, 1.0), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points",
        ha="right", va="bottom", fontsize=8, color=GREY, annotation_clip=False,
    )  # fmt: skip
    _failures(panel, record, workload)
    panel.axvline(1, color="black", linewidth=1, zorder=1)
    for rival, dashes in RIVALS.items():
        interval = rival_ratio(record, workload, rival)
        if interval is not None:
            panel.axvline(interval.median, color=GREY, linewidth=0.9, linestyle=dashes, zorder=1)
    panel.set_ylim(len(peers) - 0.5, -0.5)
    panel.xaxis.set_major_locator(LogLocator(10))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.set_yticks(range(len(peers)), [record.titles["peers"][peer] for peer in peers] if labelled else [])
    for tick, peer in zip(panel.get_yticklabels(), peers, strict=False):
        tick.set(color=BLUE if peer == OURS else "black", fontweight="bold" if peer == OURS else "normal")
    panel.set(xlabel="time, × one SGD step", ylabel="")
    panel.set_title(record.titles["workloads"][workload], fontweight="bold", loc="left")
    panel.grid(axis="x", color="0.9", zorder=0)
    sns.despine(ax=panel, left=True)


def _failures(panel: Axes, record: Record, workload: str) -> None:
    """What was offered and gave no measurement is said in its place."""
    for row in record.rows:
        shown = row.workload == workload and row.peer in record.versions and row.quantity in QUANTITIES
        if shown and row.offered and not row.seconds:
            reason = (row.reason or "failed").split(":")[0]
            panel.annotate(
                f"× {QUANTITIES[row.quantity]}: {reason}", (1, _height(record, row)), xytext=(6, 0),
                textcoords="offset points", va="center", fontsize=8, color=VERMILION, fontstyle="italic",
            )  # fmt: skip


def _exactness(panel: Axes, record: Record) -> None:
    """A cell a peer and trap: exact, silently wrong with its error, or an error raised."""
    peers = list(record.versions)
    traps = list(dict.fromkeys(row.workload for row in record.exactness))
    for row in record.exactness:
        x, y = traps.index(row.workload), peers.index(row.peer)
        text, face, ink = _verdict(row)
        panel.add_patch(Rectangle((x - 0.47, y - 0.42), 0.94, 0.84, facecolor=face, linewidth=0))
        panel.annotate(text, (x, y), ha="center", va="center", fontsize=8.5, color=ink)
    panel.set_xlim(-0.5, len(traps) - 0.5)
    panel.set_ylim(len(peers) - 0.5, -0.5)
    panel.set_xticks(range(len(traps)), [_wrapped(trap) for trap in traps])
    panel.set_yticks(range(len(peers)), [record.titles["peers"][peer] for peer in peers])
    for tick, peer in zip(panel.get_yticklabels(), peers, strict=True):
        tick.set(color=BLUE if peer == OURS else "black", fontweight="bold" if peer == OURS else "normal")
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.set_title(
        "Exactness: relative error against the dense Jacobian in float64", fontweight="bold", loc="left", pad=8
    )
    sns.despine(ax=panel, left=True, bottom=True)


def _verdict(row: Row) -> tuple[str, str, str]:
    """Text, background and ink of a cell."""
    if row.error is None:
        return ("raises an error" if row.offered else "not offered"), "#eeeeee", GREY
    suffix = " (step)" if row.quantity == "step" else ""
    if wrong(row):
        return f"✗ wrong: {row.error:.2g}{suffix}", VERMILION, "white"
    return f"✓ {row.error:.0e}{suffix}", "#d9ebf5", "#0b3a57"


def _wrapped(title: str) -> str:
    """In two lines of about equal length."""
    words = title.split()
    cut = min(range(1, len(words) + 1), key=lambda i: abs(len(" ".join(words[:i])) - len(title) / 2))
    return " ".join(words[:cut]) + "\n" + " ".join(words[cut:])


def _legend(figure: Figure) -> None:
    handles: list[Line2D] = [
        Line2D([], [], marker=marker, color=GREY, linestyle="", markersize=6.5, label=quantity)
        for quantity, marker in MARKERS.items()
    ]
    handles.append(Line2D([], [], color=GREY, alpha=0.45, linewidth=3.2, label="95% interval"))
    handles.append(Line2D([], [], color="black", linewidth=1, label="SGD"))
    handles += [
        Line2D([], [], color=GREY, linewidth=0.9, linestyle=dashes, label={"adam": "Adam"}.get(rival, "Adam, fused"))
        for rival, dashes in RIVALS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncol=len(handles), frameon=False)
