"""Step-cost suites: the steps of all methods are timed in turns, in every cell."""

from statistics import median
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .methods import GgnSettings
from .suite import Cell, Seeds, Suite
from .trial import StepCostTrial, TrialResult

__all__ = ["StepCostSuite"]


class StepCostSuite(Suite):
    """In every cell, each seed is a process in which all methods take turns.

    Attributes:
        rounds: Turns of each method in a process.
        margin: How many times a rival's step the first method's may take and still count as near it: the report tells
            from which width or batch size on it does. No part of a trial.
    """

    measure: Literal["step_cost"] = "step_cost"
    seeds: Seeds = (0,)
    rounds: Annotated[int, Field(ge=30)] = 40  # fewer pairs make intervals that mean little
    margin: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.25

    @model_validator(mode="after")
    def _each_method_once(self) -> "StepCostSuite":
        if len(self.methods) < 2:
            raise ValueError("methods: a step's cost is told beside another's, give at least two methods")
        for method in self.methods:
            # Timed steps leave the weights where they are, and a search gives up on a step that promises nothing.
            if isinstance(method, GgnSettings) and method.search is not None:
                raise ValueError(
                    f"methods: what search '{method.search}' costs depends on where the training is: time it in a "
                    "training suite, by the seconds to the target"
                )
        return self

    def trial(self, cell: Cell, seed: int) -> StepCostTrial:
        return StepCostTrial(methods=self.methods, rounds=self.rounds, seed=seed, **cell.fields())

    def metrics(self, result: TrialResult) -> dict[str, float | None]:
        """For each method the median seconds of a step, and its peak memory."""
        costs = result.costs
        if costs is None:
            return {}
        names = [f"{index}.{method.label}" for index, method in enumerate(self.methods)]
        return {
            **{f"step_seconds.{name}": median(seconds) for name, seconds in zip(names, costs.step, strict=True)},
            **{f"memory_mib.{name}": memory for name, memory in zip(names, costs.memory_mib, strict=True)},
            **{f"phase_seconds.{name}": median(seconds) for name, seconds in costs.phases.items()},
            "gradient_seconds": median(costs.gradient),
            "step_error": costs.step_error,
        }

    def size(self) -> int:
        return len(self.cells()) * len(self.seeds)
