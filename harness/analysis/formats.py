"""How numbers are written in tables."""

import math

from .statistics import Interval

__all__ = ["interval", "number", "ratio"]


def number(value: float, digits: int = 3, infinite: str = "missed") -> str:
    """A number in ``digits`` significant digits, large ones to the unit; ``infinite`` says what infinity stands for."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return infinite
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


def interval(value: Interval, infinite: str = "missed", digits: int = 3) -> str:
    """A median with its interval."""
    if value.size == 0:
        return "–"
    median, low, high = (number(x, digits, infinite) for x in (value.median, value.low, value.high))
    return f"{median} [{low}, {high}]"


def ratio(value: Interval) -> str:
    """Like an interval, with an infinite ratio as ∞: the first of the pair missed."""
    return interval(value, infinite="∞")
