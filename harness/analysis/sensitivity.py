"""How much a method's settings matter: the losses of all settings tried, beside the best of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NEAR", "Sensitivity", "relative", "sensitivity", "spread"]

NEAR = 2.0  # times the best loss: what counts as near it


class Sensitivity(NamedTuple):
    """Of one method on one problem.

    Attributes:
        spread: The worst loss over the best; infinite where a setting broke off.
        near: How many settings have a loss of at most NEAR times the best.
        tried: How many there are.
    """

    spread: float
    near: int
    tried: int


def sensitivity(losses: Sequence[float]) -> Sensitivity:
    """Of losses, one a setting, infinite where it broke off."""
    return Sensitivity(spread(losses), sum(ratio <= NEAR for ratio in relative(losses)), len(losses))


def spread(losses: Sequence[float]) -> float:
    """The worst over the best loss; infinite where a setting broke off."""
    return max(relative(losses), default=math.inf)


def relative(losses: Sequence[float]) -> list[float]:
    """Each loss over the best one; all infinite where no setting gave any."""
    best = min(losses, default=math.inf)
    if math.isinf(best):
        return [math.inf] * len(losses)
    return [1.0 if loss == best else loss / best if best > 0 else math.inf for loss in losses]
