"""Training suites: methods train every problem to the end of their budget, with settings searched or given."""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from .errors import unknown_name
from .frozen import Frozen, as_tuple
from .methods import MethodConfig
from .problems import ProblemConfig
from .suite import Cell, Seeds, Suite, refuse_duplicates
from .trial import Budget, TrainingTrial, TrialResult

__all__ = ["TrainingSuite", "Tuning"]


Target = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Tuning(Frozen):
    """A search over settings, of equal size for every method.

    Attributes:
        seeds: Seeds to judge candidates on; none of them may be an evaluation seed.
        budget: Of each tuning trial.
        spaces: For each method, lists of values; the candidates are their combinations.
        defaults: Whether the untuned settings, those that stand under ``methods``, are evaluated as well, on the same
            seeds: what was not given there is at the method's default.
    """

    seeds: Seeds
    budget: Budget = Budget()
    spaces: dict[str, dict[str, Annotated[tuple[Any, ...], BeforeValidator(as_tuple), Field(min_length=1)]]]
    defaults: bool = False

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


class TrainingSuite(Suite):
    """Every method trains in every cell on every seed.

    Attributes:
        budget: When a trial ends.
        target: Training loss (mean squared error, standardised targets) at which time to target is read: one for all
            problems, or one for each by its label.
        tuning: How settings are searched; methods without a space keep those given.
    """

    measure: Literal["training"] = "training"
    budget: Budget = Budget()
    target: Target | dict[str, Target]
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _targets_fit(self) -> "TrainingSuite":
        if isinstance(self.target, dict):
            labels = dict.fromkeys(problem.label for problem in self.problem)
            for label in labels:
                if label not in self.target:
                    raise ValueError(f"target: the problem '{label}' has none; it has those of {sorted(self.target)}")
            for label in self.target:
                if label not in labels:
                    raise ValueError(f"target: {unknown_name('problem', label, labels)}")
        return self

    @model_validator(mode="after")
    def _tuning_fits(self) -> "TrainingSuite":
        if self.tuning is None:
            return self
        names: list[str] = [method.name for method in self.methods]
        for name in self.tuning.spaces:
            if names.count(name) == 0:
                raise ValueError(f"tuning.spaces: {unknown_name('method', name, names)}")
            if names.count(name) > 1:
                raise ValueError(f"tuning.spaces: '{name}' is searched, so it may stand only once under methods")
        refuse_duplicates("tuning.seeds", self.tuning.seeds)
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
        refuse_duplicates(place, candidates)

    def is_tuned(self, method: MethodConfig) -> bool:
        return self.tuning is not None and method.name in self.tuning.spaces

    def compares_untuned(self, method: MethodConfig) -> bool:
        """Whether the method is evaluated with its untuned settings beside the searched ones."""
        return self.tuning is not None and self.tuning.defaults and self.is_tuned(method)

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
            (candidate, [self._trial(cell, candidate, seed, tuning.budget) for seed in tuning.seeds])
            for candidate in self.candidates(method)
        ]

    def size(self) -> int:
        """How many trials the suite stands for, tuning included."""
        tuned = sum(len(self.candidates(m)) for m in self.methods if self.is_tuned(m))
        tuning_seeds = len(self.tuning.seeds) if self.tuning is not None else 0
        evaluated = len(self.methods) + sum(map(self.compares_untuned, self.methods))
        return len(self.cells()) * (tuned * tuning_seeds + evaluated * len(self.seeds))

    def with_parts(self, changes: dict[str, Any]) -> Self:
        methods = changes.get("methods", self.methods)
        if self.tuning is not None:
            names = {method.name for method in methods}
            spaces = {name: space for name, space in self.tuning.spaces.items() if name in names}
            changes = changes | {"tuning": self.tuning.model_copy(update={"spaces": spaces}) if spaces else None}
        if isinstance(self.target, dict):
            labels = {problem.label for problem in changes.get("problem", self.problem)}
            changes = changes | {"target": {label: self.target[label] for label in self.target if label in labels}}
        return super().with_parts(changes)

    def target_of(self, problem: ProblemConfig) -> float:
        """The target of a problem."""
        return self.target[problem.label] if isinstance(self.target, dict) else self.target

    def reading(self, result: TrialResult) -> str:
        return f"target {self.target_of(result.trial.problem)}"

    def metrics(self, result: TrialResult) -> dict[str, float | None]:
        """Those of ``TrialResult.summary``; the time to a target that was missed is the time spent, marked censored."""
        found = result.summary(self.target_of(result.trial.problem))
        censored = found["epochs_to_target"] is None
        if censored and result.curve.epoch:
            found["epochs_to_target"], found["seconds_to_target"] = result.curve.epoch[-1], result.curve.seconds[-1]
            found["gradients_to_target"] = result.gradients[-1] if result.gradients else None
        return found | {"target_censored": float(censored)}

    def trial(self, cell: Cell, method: MethodConfig, seed: int) -> TrainingTrial:
        """An evaluation trial."""
        return self._trial(cell, method, seed, self.budget)

    @staticmethod
    def _trial(cell: Cell, method: MethodConfig, seed: int, budget: Budget) -> TrainingTrial:
        return TrainingTrial(method=method, seed=seed, budget=budget, **cell.fields())
