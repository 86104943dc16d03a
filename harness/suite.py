"""A suite: the cells it sweeps, the methods it compares in each, and how their settings are chosen."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from .errors import unknown_name
from .frozen import Frozen, as_tuple
from .methods import MethodConfig
from .problems import ProblemConfig
from .trial import Budget, TrainingTrial

__all__ = ["Cell", "Limits", "Suite", "Tuning"]


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


class Tuning(Frozen):
    """A search over settings, of equal size for every method.

    Attributes:
        seeds: Seeds to judge candidates on; none of them may be an evaluation seed.
        budget: Of each tuning trial.
        spaces: For each method, lists of values; the candidates are their combinations.
    """

    seeds: Seeds
    budget: Budget = Budget()
    spaces: dict[str, dict[str, Annotated[tuple[Any, ...], BeforeValidator(as_tuple), Field(min_length=1)]]]

    def candidates(self, method: str) -> list[dict[str, Any]]:
        space = self.spaces[method]
        return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]

    @model_validator(mode="after")
    def _equal_size(self) -> "Tuning":
        sizes = {method: len(self.candidates(method)) for method in self.spaces}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{method} has {size}" for method, size in sizes.items())
            raise ValueError(f"every method needs the same number of candidates, or the comparison is unfair: {listed}")
        return self


class Cell(Frozen):
    """What a comparison holds fixed while the method and the seed vary."""

    problem: ProblemConfig
    batch_size: int
    device: str
    dtype: Literal["float32", "float64"]
    threads: int

    def trial(self, method: MethodConfig, seed: int, budget: Budget) -> TrainingTrial:
        shared = {name: getattr(self, name) for name in Cell.model_fields}
        return TrainingTrial(method=method, seed=seed, budget=budget, **shared)


class Suite(Frozen):
    """A sweep: all combinations of problem, batch size, device, dtype and threads are its cells.

    Attributes:
        suite: Its name, also that of its MLflow experiment.
        question: What it asks, for the report.
        problem: Problems, each with its model.
        batch_size: Samples of each step.
        device: "cpu", "cuda", "cuda:1", …; a device that is not there makes its cells skipped trials.
        dtype: "float32" or "float64".
        threads: Of torch.
        methods: What is compared, with the settings that are not searched.
        seeds: Of split, initial weights and order of batches.
        budget: When a trial ends.
        target: Training loss (mean squared error, standardised targets) at which time to target is read.
        tuning: How settings are searched; methods without a space keep those given.
        limits: What ends a trial early.
    """

    suite: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", coerce_numbers_to_str=True)]
    question: str = ""
    problem: Annotated[tuple[ProblemConfig, ...], Field(min_length=1)]
    batch_size: tuple[Annotated[int, Field(ge=1)], ...]
    device: tuple[Device, ...] = ("cpu",)
    dtype: tuple[Literal["float32", "float64"], ...] = ("float32",)
    threads: tuple[Annotated[int, Field(ge=1)], ...]
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)]
    seeds: Seeds
    budget: Budget = Budget()
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    tuning: Tuning | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _nothing_twice(self) -> "Suite":
        for key in ("problem", "batch_size", "device", "dtype", "threads", "methods", "seeds"):
            _refuse_duplicates(key, getattr(self, key))
        if self.tuning is not None:
            _refuse_duplicates("tuning.seeds", self.tuning.seeds)
        return self

    @model_validator(mode="after")
    def _tuning_fits(self) -> "Suite":
        if self.tuning is None:
            return self
        names: list[str] = [method.name for method in self.methods]
        for name in self.tuning.spaces:
            if names.count(name) == 0:
                raise ValueError(f"tuning.spaces: {unknown_name('method', name, names)}")
            if names.count(name) > 1:
                raise ValueError(f"tuning.spaces: '{name}' is searched, so it may stand only once under methods")
        shared = set(self.seeds) & set(self.tuning.seeds)
        if shared:
            raise ValueError(f"tuning.seeds and seeds must not overlap, both hold {sorted(shared)}")
        for method in self.methods:
            self._check_candidates(method)
        return self

    def _check_candidates(self, method: MethodConfig) -> None:
        place = f"tuning.spaces.{method.name}"
        try:
            candidates = self.candidates(method)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise ValueError(f"{place}: {unknown_name('key', key, type(method).model_fields)}") from None
            raise ValueError(f"{place}.{key}: {first['msg']}, found {first['input']!r}") from None
        _refuse_duplicates(place, candidates)

    def cells(self) -> list[Cell]:
        return [
            Cell(problem=problem, batch_size=batch_size, device=device, dtype=dtype, threads=threads)
            for problem, batch_size, device, dtype, threads in itertools.product(
                self.problem, self.batch_size, self.device, self.dtype, self.threads
            )
        ]

    def is_tuned(self, method: MethodConfig) -> bool:
        return self.tuning is not None and method.name in self.tuning.spaces

    def candidates(self, method: MethodConfig) -> list[MethodConfig]:
        """Settings to choose from: the method's own, with the searched ones replaced."""
        if self.tuning is None or not self.is_tuned(method):
            return [method]
        given = method.model_dump()
        # Validated: YAML reads 1e-3 as text.
        return [type(method).model_validate(given | candidate) for candidate in self.tuning.candidates(method.name)]

    def tuning_trials(self, cell: Cell, method: MethodConfig) -> list[tuple[MethodConfig, list[TrainingTrial]]]:
        """Each candidate with its trials, one a tuning seed."""
        assert self.tuning is not None
        tuning = self.tuning
        return [
            (candidate, [cell.trial(candidate, seed, tuning.budget) for seed in tuning.seeds])
            for candidate in self.candidates(method)
        ]

    def size(self) -> int:
        """How many trials the suite stands for, tuning included."""
        tuned = sum(len(self.candidates(m)) for m in self.methods if self.is_tuned(m))
        tuning_seeds = len(self.tuning.seeds) if self.tuning is not None else 0
        return len(self.cells()) * (tuned * tuning_seeds + len(self.methods) * len(self.seeds))


def _refuse_duplicates(key: str, values: Sequence[Any]) -> None:
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise ValueError(f"{key}: stands twice: {value}")
        seen.append(value)
