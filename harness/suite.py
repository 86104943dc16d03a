"""What every suite has: the cells it sweeps, the methods it compares in each, and the limits of a trial."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from .frozen import Frozen
from .methods import MethodConfig
from .plugins import OwnCode
from .problems import ProblemConfig
from .trial import TrialResult

__all__ = ["Cell", "Limits", "Seeds", "Suite", "refuse_duplicates"]


def _seeds(value: Any) -> Any:
    """A number n stands for the seeds 0 … n − 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value < 1:
        raise ValueError("give how many, at least 1, or a list of seeds")
    return tuple(range(value))


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_seeds), Field(min_length=1)]

Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")]


class Limits(Frozen):
    """What a single trial may use before it is ended."""

    seconds: Annotated[float, Field(gt=0)] = 3600.0
    memory_gib: Annotated[float, Field(gt=0)] | None = None


class Cell(Frozen):
    """What a comparison holds fixed while the method and the seed vary."""

    problem: ProblemConfig
    batch_size: int
    device: str
    dtype: Literal["float32", "float64"]
    threads: int

    def fields(self) -> dict[str, Any]:
        """What the cell's trials share, as they name it."""
        return {name: getattr(self, name) for name in Cell.model_fields}


class Suite(Frozen):
    """A sweep: all combinations of problem, batch size, device, dtype and threads are its cells.

    Attributes:
        measure: What its trials measure.
        suite: Its name, also that of its MLflow experiment.
        question: What it asks, for the report.
        problem: Problems, each with its model.
        batch_size: Samples of each step.
        device: "cpu", "cuda", "cuda:1", …; a device that is not there makes its cells skipped trials.
        dtype: "float32" or "float64".
        threads: Of torch.
        methods: What is compared.
        seeds: Of split, initial weights and order of batches.
        limits: What ends a trial early.
    """

    measure: str
    suite: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", coerce_numbers_to_str=True)]
    question: str = ""
    problem: Annotated[tuple[ProblemConfig, ...], Field(min_length=1)]
    batch_size: tuple[Annotated[int, Field(ge=1)], ...]
    device: tuple[Device, ...] = ("cpu",)
    dtype: tuple[Literal["float32", "float64"], ...] = ("float32",)
    threads: tuple[Annotated[int, Field(ge=1)], ...]
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)]
    seeds: Seeds
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _nothing_twice(self) -> "Suite":
        for key in ("problem", "batch_size", "device", "dtype", "threads", "methods", "seeds"):
            refuse_duplicates(key, getattr(self, key))
        return self

    def cells(self) -> list[Cell]:
        return [
            Cell(problem=problem, batch_size=batch_size, device=device, dtype=dtype, threads=threads)
            for problem, batch_size, device, dtype, threads in itertools.product(
                self.problem, self.batch_size, self.device, self.dtype, self.threads
            )
        ]

    def candidates(self, method: MethodConfig) -> list[MethodConfig]:
        """The settings that trials of a method may have."""
        return [method]

    def own_code(self) -> list[OwnCode]:
        """The user's own methods and models in it."""
        models = [problem.model for problem in self.problem]
        return [code for code in (*self.methods, *models) if isinstance(code, OwnCode)]

    def size(self) -> int:
        """How many trials the suite stands for."""
        raise NotImplementedError

    def with_parts(self, changes: dict[str, Any]) -> Self:
        """The suite with some of its fields replaced by parts of them, checked as a suite of its own."""
        return type(self).model_validate({name: getattr(self, name) for name in type(self).model_fields} | changes)

    def reading(self, result: TrialResult) -> str:
        """What the metrics of a result depend on besides its trial, such as a target."""
        return ""

    def metrics(self, result: TrialResult) -> dict[str, float | None]:
        """The numbers of a result, as MLflow shall show them; None where there is none."""
        raise NotImplementedError


def refuse_duplicates(key: str, values: Sequence[Any]) -> None:
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise ValueError(f"{key}: stands twice: {value}")
        seen.append(value)
