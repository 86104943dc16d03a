"""What a training suite says over all of its cells, and along its axes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ...sweep import Contender
from ...training_suite import TrainingSuite
from ..aggregate import geometric_mean_ratio, performance_profile, probability_of_improvement
from ..labels import Labels
from ..scaling import MIN_SIZES, SHAPE, Crossing, crossover, exponent, parameters
from ..statistics import Interval
from .summary import RATIO_KEYS, Comparison, by_seed, paired

__all__ = ["FACTORS", "Crossover", "Overall", "Scaling", "crossovers", "overall", "profiles", "scalings"]

FACTORS = [1 + 0.02 * step for step in range(151)]  # 1 to 4


class Overall(NamedTuple):
    """GGN against one rival, over all cells.

    Attributes:
        pair: Both methods' labels.
        measure: Key of the number compared.
        probability: That GGN's is lower, on a seed of a cell.
        ratio: Geometric mean over the cells of the median ratio.
    """

    pair: tuple[str, str]
    measure: str
    probability: Interval
    ratio: Interval


class Scaling(NamedTuple):
    """How a method's cost grows along an axis.

    Attributes:
        axis: Its name, or "parameters" for the number of the model's parameters.
        rest: What else sets the cells apart.
        method: The method's label.
        epochs: Exponent of epochs to the target.
        seconds: Exponent of seconds to the target.
    """

    axis: str
    rest: str
    method: str
    epochs: Interval
    seconds: Interval


class Crossover(NamedTuple):
    """Where along an axis GGN's seconds to the target are no more than a rival's.

    Attributes:
        axis: Its name.
        rest: What else sets the cells apart.
        pair: Both methods' labels.
        crossing: Where.
    """

    axis: str
    rest: str
    pair: tuple[str, str]
    crossing: Crossing


def overall(suite: TrainingSuite, found: Sequence[Comparison]) -> list[Overall]:
    """One entry a rival and a measure."""
    label = Labels(suite)
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for item in found:
        pairs.setdefault((label.method(item.ours.method), label.method(item.rival.method)), []).append(item)
    summed = []
    for pair, items in pairs.items():
        for key in RATIO_KEYS:
            cells = [paired(by_seed(suite, item.ours, key), by_seed(suite, item.rival, key)) for item in items]
            summed.append(Overall(pair, key, probability_of_improvement(cells), geometric_mean_ratio(cells)))
    return summed


def profiles(suite: TrainingSuite, contenders: Sequence[Contender], key: str) -> dict[str, list[float]]:
    """For each method the share of seeds and cells it solves within each of FACTORS times the best method's cost."""
    label = Labels(suite)
    costs: dict[str, list[float]] = {label.method(method): [] for method in suite.methods}
    for cell in suite.cells():
        rivals = {label.method(c.method): by_seed(suite, c, key) for c in contenders if c.cell == cell}
        # An instance counts once all methods have run it.
        for seed in suite.seeds:
            if all(seed in numbers for numbers in rivals.values()):
                for name, numbers in rivals.items():
                    costs[name].append(numbers[seed])
    if len(costs) < 2 or not next(iter(costs.values())):
        return {}
    return performance_profile(costs, FACTORS)


def scalings(suite: TrainingSuite, contenders: Sequence[Contender]) -> list[Scaling]:
    """One entry an axis with at least three sizes, a method, and a rest of the cell."""
    label = Labels(suite)
    axes: list[tuple[str, tuple[str, ...]]] = [(axis, (axis,)) for axis in label.numeric_axes(MIN_SIZES)]
    if any(axis in SHAPE for axis, _ in axes):
        axes.append(("parameters", SHAPE))
    fits = []
    for axis, without in axes:
        lines: dict[tuple[str, str], dict[float, Contender]] = {}
        for contender in contenders:
            size = parameters(contender.evaluations) if axis == "parameters" else label.value(contender.cell, axis)
            if size is not None:
                line = label.cell(contender.cell, without), label.method(contender.method)
                lines.setdefault(line, {})[size] = contender
        for (rest, method), line_of in lines.items():
            epochs, seconds = (
                exponent({size: list(by_seed(suite, c, key).values()) for size, c in line_of.items()})
                for key in ("epochs_to_target", "seconds_to_target")
            )
            if not math.isnan(epochs.median):
                fits.append(Scaling(axis, rest, method, epochs, seconds))
    return fits


def crossovers(suite: TrainingSuite, found: Sequence[Comparison]) -> list[Crossover]:
    """One entry an axis with at least two sizes, a pair of methods, and a rest of the cell."""
    label = Labels(suite)
    crossed = []
    for axis in label.numeric_axes(2):
        lines: dict[tuple[str, tuple[str, str]], dict[float, tuple[list[float], list[float]]]] = {}
        for item in found:
            pair = label.method(item.ours.method), label.method(item.rival.method)
            line = lines.setdefault((label.cell(item.ours.cell, without=(axis,)), pair), {})
            seconds = [by_seed(suite, contender, "seconds_to_target") for contender in (item.ours, item.rival)]
            line[label.value(item.ours.cell, axis)] = paired(*seconds)
        for (rest, pair), line in lines.items():
            if (crossing := crossover(line)) is not None:
                crossed.append(Crossover(axis, rest, pair, crossing))
    return crossed
