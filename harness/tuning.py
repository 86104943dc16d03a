"""Chooses each method's settings in each cell from the trials of an equal-budget search."""

import math
from collections.abc import Sequence
from statistics import median

from .frozen import Frozen
from .methods import MethodConfig
from .trial import TrialResult

__all__ = ["Candidate", "best"]


class Candidate(Frozen):
    """Settings that were tried, and how they did.

    Attributes:
        settings: The method with these settings.
        epochs_to_target: Median over the tuning seeds; infinite if half of them or more missed the target.
        final_train_loss: Median over the tuning seeds; infinite if half of them or more did not end well.
    """

    settings: MethodConfig
    epochs_to_target: float
    final_train_loss: float

    @classmethod
    def judge(cls, settings: MethodConfig, results: Sequence[TrialResult], target: float) -> "Candidate":
        def typical(key: str) -> float:
            values = [result.summary(target)[key] for result in results]
            return median(math.inf if value is None else value for value in values)

        return cls(
            settings=settings,
            epochs_to_target=typical("epochs_to_target"),
            final_train_loss=typical("final_train_loss"),
        )


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The one with the fewest epochs to the target; ties, as when none got there, go to the lower final loss.

    Seconds play no part, so a noisy machine does not change the choice. Test errors play none either.
    """
    return min(candidates, key=lambda candidate: (candidate.epochs_to_target, candidate.final_train_loss))
