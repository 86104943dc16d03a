"""Searches: they try a step, evaluate the closure where it leads, and accept, shorten or damp it.

A search sees the step through ``Point`` alone and returns an ``Outcome``; it keeps no state of its own. What lasts from
one step to the next, damping and step length, lives in the optimizer's parameter groups, and so in its state_dict.
Where a step promises less than the loss can resolve, there is nothing to compare: it is rejected without an evaluation.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from .direction import Direction
from .errors import SettingError

__all__ = ["Armijo", "LevenbergMarquardt", "Outcome", "Point", "Search"]


class Point(Protocol):
    """Where the step starts, as a search sees it. Losses are sums of squares, in float64."""

    @property
    def loss(self) -> float:
        """At the start."""

    @property
    def noise(self) -> float:
        """Differences of losses below this are rounding errors of the forward pass."""

    def direction(self, damping: float, *, fresh: bool) -> Direction:
        """The direction with this damping; without momentum if ``fresh``, or if momentum promises no descent."""

    def limit(self, direction: Direction) -> float:
        """The longest step length along a direction, ≤ 1."""

    def loss_at(self, direction: Direction, length: float) -> float:
        """Moves the parameters there, and evaluates; infinite where it is not a number."""


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        direction: The last one tried.
        length: The last step length tried.
        accepted: Whether the parameters should stay where the last attempt left them.
        attempts: Evaluations of the closure.
        gain_ratio: Actual by predicted reduction at the last attempt.
        damping: For the next step; None for no change.
        step_length: Where the next step's search may take up, ≤ 1; limits apart.
    """

    direction: Direction
    length: float
    accepted: bool = True
    attempts: int = 0
    gain_ratio: float | None = None
    damping: float | None = None
    step_length: float = 1.0


class Search(Protocol):
    """Decides about one step."""

    def __call__(self, point: Point, damping: float, step_length: float) -> Outcome:
        """Tries steps from ``point``, starting from the damping and the step length that the last step left."""


@dataclass(frozen=True)
class Armijo:
    """Backtracking: the longest step, of a few, that delivers a share of what its slope promises.

    A step length s is accepted if loss(s) ≤ loss − decrease · s · slope. A search begins with the last step's length
    times ``grow``, 1 at the most, and shortens it by ``shrink`` until that holds.

    The defaults follow EGN (Korbit et al., arXiv 2405.14402). Its 0.9 is read as ``aggressiveness`` of jaxopt's Armijo
    search, which asks for a share of 1 − 0.9.

    Attributes:
        decrease: Share of the linear prediction that is asked for, in (0, 1).
        shrink: In (0, 1).
        grow: ≥ 1.
        attempts: ≥ 1; after as many the step is rejected, and the next search starts from 1.
    """

    decrease: float = 0.1
    shrink: float = 0.8
    grow: float = 1.5
    attempts: int = 15

    def __post_init__(self) -> None:
        _check("decrease", self.decrease, 0 < self.decrease < 1, "a number between 0 and 1")
        _check("shrink", self.shrink, 0 < self.shrink < 1, "a number between 0 and 1")
        _check("grow", self.grow, 1 <= self.grow < math.inf, "a finite number ≥ 1")
        _check_attempts(self.attempts)

    def __call__(self, point: Point, damping: float, step_length: float) -> Outcome:
        direction = point.direction(damping, fresh=False)
        limit = point.limit(direction)
        relative = min(1.0, step_length * self.grow)
        ratio = None
        if direction.predicted(limit) <= point.noise:
            return Outcome(direction, limit, accepted=False)
        for attempt in range(1, self.attempts + 1):
            length = relative * limit
            actual = point.loss - point.loss_at(direction, length)
            ratio = actual / direction.predicted(length)
            if actual >= self.decrease * length * direction.slope:
                return Outcome(direction, length, True, attempt, ratio, step_length=relative)
            relative *= self.shrink
        return Outcome(direction, length, False, self.attempts, ratio)


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Accepts or rejects the step by its gain ratio ρ, actual by predicted reduction, and adapts the damping.

    Accepted if ρ > ``accept``. After a rejection the damping is multiplied by ``increase``, and the step is solved anew
    from the same Gram matrix, without momentum. After an acceptance it is multiplied by ``decrease`` if ρ > ``good``,
    by ``increase`` if ρ < ``poor``, and kept in between.

    Source: Marquardt 1963 for the damping; the gain ratio and its thresholds as in trust-region methods, Conn, Gould,
    Toint, 2000, chapter 6.

    Attributes:
        increase: > 1.
        decrease: In (0, 1).
        attempts: ≥ 1; after as many the step is rejected.
        accept: ≥ 0.
        poor: ≥ accept.
        good: ≥ poor.
        minimum: Of the damping, > 0.
        maximum: Of the damping, ≥ minimum.
    """

    increase: float = 4.0
    decrease: float = 0.5
    attempts: int = 5
    accept: float = 1e-4
    poor: float = 0.25
    good: float = 0.75
    minimum: float = 1e-8
    maximum: float = 1e8

    def __post_init__(self) -> None:
        _check("increase", self.increase, 1 < self.increase < math.inf, "a finite number > 1")
        _check("decrease", self.decrease, 0 < self.decrease < 1, "a number between 0 and 1")
        _check("accept", self.accept, 0 <= self.accept <= self.poor, "a number from 0 to poor")
        _check("good", self.good, self.poor <= self.good < math.inf, "a finite number ≥ poor")
        _check("minimum", self.minimum, 0 < self.minimum <= self.maximum < math.inf, "a number > 0, ≤ maximum")
        _check_attempts(self.attempts)

    def __call__(self, point: Point, damping: float, step_length: float) -> Outcome:
        if damping <= 0:
            raise SettingError("LevenbergMarquardt multiplies the damping: start from one > 0")
        for attempt in range(1, self.attempts + 1):
            direction = point.direction(damping, fresh=attempt > 1)
            length = point.limit(direction)
            predicted = direction.predicted(length)
            if predicted <= point.noise:
                return Outcome(direction, length, accepted=False, attempts=attempt - 1, step_length=step_length)
            ratio = (point.loss - point.loss_at(direction, length)) / predicted
            if ratio > self.accept:
                factor = self.decrease if ratio > self.good else self.increase if ratio < self.poor else 1.0
                return Outcome(direction, length, True, attempt, ratio, self._within(damping * factor), step_length)
            damping = self._within(damping * self.increase)
        return Outcome(direction, length, False, self.attempts, ratio, damping, step_length)

    def _within(self, damping: float) -> float:
        return min(max(damping, self.minimum), self.maximum)


def _check(name: str, value: float, fits: bool, words: str) -> None:
    if not fits:
        raise SettingError(f"{name} must be {words}, got {value}")


def _check_attempts(attempts: int) -> None:
    _check("attempts", attempts, isinstance(attempts, int) and attempts >= 1, "a whole number ≥ 1")
