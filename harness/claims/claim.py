"""What a claim file may say: a sentence of the paper, and what a measurement must show for it to stand."""

import math
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..frozen import Frozen
from .estimands import Estimand

__all__ = ["Accepted", "Claim", "Least", "Part", "Source"]


class Source(StrEnum):
    """Where a sentence or a margin comes from."""

    STATED = "stated"  # read in the source itself
    RECALLED = "recalled, unverified"
    DERIVED = "derived"  # follows from what is stated, or was chosen here


class Accepted(Frozen):
    """A range of values: ``at_least``, ``at_most``, or both."""

    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    at_most: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> "Accepted":
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most, or both")
        if self.low > self.high:
            raise ValueError(f"at_least {self.at_least} exceeds at_most {self.at_most}")
        return self

    @property
    def low(self) -> float:
        return -math.inf if self.at_least is None else self.at_least

    @property
    def high(self) -> float:
        return math.inf if self.at_most is None else self.at_most

    def __str__(self) -> str:
        if self.at_least is None:
            return f"≤ {self.at_most:g}"
        if self.at_most is None:
            return f"≥ {self.at_least:g}"
        return f"{self.at_least:g} to {self.at_most:g}"


class Least(Frozen):
    """How much must have been measured before a verdict is given.

    Attributes:
        samples: Independent ones: seeds, or timed rounds of a step-cost suite.
        sizes: Different widths, of a fit over widths.
        span: Largest over smallest width.
    """

    samples: Annotated[int, Field(ge=1)] = 10
    sizes: Annotated[int, Field(ge=0)] = 0
    span: Annotated[float, Field(ge=1)] = 1.0


class Part(Frozen):
    """One measurement that bears on a claim.

    Attributes:
        part: What is measured, in a few words.
        suite: The shipped suite that measures it.
        estimand: The number, and of what.
        comparator: What it is held against, in words.
        accept: The values that speak for the claim.
        margin: Why these, and where they come from.
        source: Of the margin.
        plausible: The values that can be believed; what lies beyond is too good to be true, and decides nothing.
        least: How much must have been measured.
        decides: Whether the claim's verdict rests on it; otherwise it is only shown.
    """

    part: str
    suite: str
    estimand: Estimand
    comparator: str
    accept: Accepted
    margin: str
    source: Source
    plausible: Accepted | None = None
    least: Least = Least()
    decides: bool = True


class Claim(Frozen):
    """A sentence of the paper that can be tested.

    Attributes:
        claim: Its name.
        number: Its place among the claims.
        statement: What is claimed, in one sentence of ours.
        where: Where the paper makes it.
        source: Whether that place was read, or is recalled.
        proxy: What stands in for the paper's own workload; with it the best verdict is "partial".
        figure: The figure that shows it.
        remark: What a reader should know.
        parts: Its measurements.
    """

    claim: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    number: int
    statement: str
    where: str
    source: Source
    proxy: str = ""
    figure: Literal["gap", "order", "pace", "step_ratio", "ratios", "grid"]
    remark: str = ""
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _something_decides(self) -> "Claim":
        if not any(part.decides for part in self.parts):
            raise ValueError("parts: at least one must decide")
        names = [part.part for part in self.parts]
        if len(set(names)) < len(names):
            raise ValueError("parts: two have the same name")
        return self

    def suites(self) -> list[str]:
        """The suites that measure it."""
        return list(dict.fromkeys(part.suite for part in self.parts))
