"""Figures as files."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

__all__ = ["saved"]

PADDING = 0.1  # inches


def saved(figure: Figure, stem: Path) -> Path:
    """Writes a figure as SVG and PNG beside each other, and closes it.

    Returns:
        The SVG file.
    """
    svg = stem.with_suffix(".svg")
    # bbox_inches="tight" would lay everything out once more for each file.
    figure.draw_without_rendering()
    tight = figure.get_tightbbox().padded(PADDING)
    for path in (svg, stem.with_suffix(".png")):
        figure.savefig(path, dpi=150, bbox_inches=tight)
    plt.close(figure)
    return svg
