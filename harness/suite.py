"""A suite: the cells it sweeps, the methods it compares in each, and how their settings are chosen."""

import itertools
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from .errors import unknown
from .frozen import Frozen
from .methods import METHODS, MethodConfig
from .problems import ProblemConfig
from .trial import Budget, TrainingTrial

__all__ = ["Cell", "Limits", "Suite", "Tuning"]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,)


def _seeds(value: Any) -> Any:
    """A number n stands for the seeds 0 … n − 1."""
    return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


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
    spaces: dict[str, dict[str, Annotated[tuple[Any, ...], BeforeValidator(_as_tuple), Field(min_length=1)]]]

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

    def trial(self, method: Any, seed: int, budget: Budget, target: float) -> TrainingTrial:
        shared = {name: getattr(self, name) for name in Cell.model_fields}
        return TrainingTrial(method=method, seed=seed, budget=budget, target=target, **shared)


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

    suite: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
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
    def _tuning_fits(self) -> "Suite":
        if self.tuning is None:
            return self
        names: list[str] = [method.name for method in self.methods]
        for name in self.tuning.spaces:
            if names.count(name) == 0:
                raise ValueError(f"tuning.spaces: {unknown('method', name, names)}")
            if names.count(name) > 1:
                raise ValueError(f"tuning.spaces: '{name}' is searched, so it may stand only once under methods")
        shared = set(self.seeds) & set(self.tuning.seeds)
        if shared:
            raise ValueError(f"tuning.seeds and seeds must not overlap, both hold {sorted(shared)}")
        for method in self.methods:
            self._check_candidates(method)
        return self

    def _check_candidates(self, method: MethodConfig) -> None:
        settings = METHODS[method.name][0]
        for candidate in self.candidates(method):
            try:
                settings.model_validate(candidate)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in first["loc"])
                place = f"tuning.spaces.{method.name}"
                if first["type"] == "extra_forbidden":
                    raise ValueError(f"{place}: {unknown('key', key, settings.model_fields)}") from None
                raise ValueError(f"{place}.{key}: {first['msg']}, found {first['input']!r}") from None

    def cells(self) -> list[Cell]:
        return [
            Cell(problem=problem, batch_size=batch_size, device=device, dtype=dtype, threads=threads)
            for problem, batch_size, device, dtype, threads in itertools.product(
                self.problem, self.batch_size, self.device, self.dtype, self.threads
            )
        ]

    def is_tuned(self, method: MethodConfig) -> bool:
        return self.tuning is not None and method.name in self.tuning.spaces

    def candidates(self, method: MethodConfig) -> list[dict[str, Any]]:
        """Settings to choose from: the method's own, with the searched ones replaced."""
        given = method.model_dump()
        if self.tuning is None or given["name"] not in self.tuning.spaces:
            return [given]
        return [given | candidate for candidate in self.tuning.candidates(given["name"])]

    def _typed(self, method: MethodConfig, candidate: dict[str, Any]) -> dict[str, Any]:
        """The candidate as the method's settings understand it: YAML reads 1e-3 as text."""
        return METHODS[method.name][0].model_validate(candidate).model_dump()

    def tuning_trials(self, cell: Cell, method: MethodConfig) -> list[tuple[dict[str, Any], list[TrainingTrial]]]:
        """Each candidate with its trials, one a tuning seed."""
        assert self.tuning is not None
        tuning = self.tuning
        return [
            (candidate, [cell.trial(candidate, seed, tuning.budget, self.target) for seed in tuning.seeds])
            for candidate in (self._typed(method, given) for given in self.candidates(method))
        ]

    def size(self) -> int:
        """How many trials the suite stands for, tuning included."""
        tuned = sum(len(self.candidates(m)) for m in self.methods if self.is_tuned(m))
        tuning_seeds = len(self.tuning.seeds) if self.tuning is not None else 0
        return len(self.cells()) * (tuned * tuning_seeds + len(self.methods) * len(self.seeds))
