"""What the searches for settings tell besides their choice: how much each method's settings matter."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ..labels import Labels
from ..sensitivity import Sensitivity, sensitivity

__all__ = ["MethodSensitivity", "searched", "sensitivities"]


class MethodSensitivity(NamedTuple):
    """How much the settings of a method matter over all cells.

    Attributes:
        method: Its label.
        cells: For each cell, its label and what was found there.
        spread: Median over the cells.
        near: Share of settings near the best, of all cells together.
    """

    method: str
    cells: list[tuple[str, Sensitivity]]
    spread: float
    near: float


def searched(contenders: Sequence[Contender]) -> list[Contender]:
    """Those with a finished search over several settings."""
    return [c for c in contenders if c.settings is not None and len(c.candidates) > 1]


def sensitivities(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[MethodSensitivity]:
    """One entry a method with a finished search, by the final training losses of the searches' trials."""
    label = Labels(suite)
    by_method: dict[str, list[tuple[str, Sensitivity]]] = {}
    for contender in searched(contenders):
        found = sensitivity([candidate.final_train_loss for candidate in contender.candidates])
        by_method.setdefault(label.method(contender.method), []).append((label.cell(contender.cell), found))
    return [
        MethodSensitivity(
            method,
            cells,
            float(np.median([found.spread for _, found in cells])),
            sum(found.near for _, found in cells) / sum(found.tried for _, found in cells),
        )
        for method, cells in by_method.items()
    ]
