"""Theory suites: the theorems' network in every cell, held against what theory says of it."""

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from .frozen import as_tuple
from .suite import Cell, Suite
from .trial import TheoryTrial, TrialResult

__all__ = ["TheorySuite"]

Start = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TheorySuite(Suite):
    """Each seed draws inputs, weights and targets in every cell; ``batch_size`` is that of the mini-batches.

    Attributes:
        starts: Root mean squares of the initial residuals of the full-batch descents.
        steps: Of each full-batch descent.
        epochs: Passes over the fixed mini-batches.
        link_damping: Of the step that is held against kernel regression; a positive one shows whether it is applied.
    """

    measure: Literal["theory"] = "theory"
    starts: Annotated[tuple[Start, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (1.0,)
    steps: Annotated[int, Field(ge=1)] = 20
    epochs: Annotated[int, Field(ge=2)] = 60
    link_damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1

    @model_validator(mode="after")
    def _fits_the_theory(self) -> "TheorySuite":
        for problem in self.problem:
            if problem.name != "two_layer":
                raise ValueError(f"problem: the theory is that of 'two_layer', found '{problem.label}'")
            for batch_size in self.batch_size:
                if problem.samples % batch_size:
                    raise ValueError(f"batch_size: {batch_size} does not divide the {problem.samples} samples")
        if set(self.dtype) != {"float64"}:
            raise ValueError("dtype: float64 only; in float32 the residuals meet their floor in two steps")
        return self

    def trial(self, cell: Cell, seed: int) -> TheoryTrial:
        return TheoryTrial(
            methods=self.methods,
            starts=self.starts,
            steps=self.steps,
            epochs=self.epochs,
            link_damping=self.link_damping,
            seed=seed,
            **cell.fields(),
        )

    def metrics(self, result: TrialResult) -> dict[str, float | None]:
        record = result.theory
        if record is None:
            return {}
        first = record.descents[0].residuals
        return {
            "link_gap": _finite(record.link_gap),
            "spectral_radius": record.spectral_radius,
            "residual_after_first_step": first[1] if len(first) > 1 else None,
            "residual_after_last_epoch": record.epoch_residuals[-1],
        }

    def size(self) -> int:
        return len(self.cells()) * len(self.seeds)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
