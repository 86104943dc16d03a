"""Goes through a suite: searches settings, then evaluates every method in every cell on every seed.

The same walk serves running and reporting; they differ in where a trial's result comes from.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from .errors import UserError
from .methods import MethodConfig, make_method
from .plugins import OwnCode
from .problems import Problem, ProblemConfig, make_problem
from .problems.image_configs import ImageFolder
from .stepcost_suite import StepCostSuite
from .suite import Cell, Suite
from .theory_suite import TheorySuite
from .training_suite import TrainingSuite
from .trial import AnyTrial, TrialResult
from .tuning import Candidate, best

__all__ = ["EVALUATION", "TUNING", "Contender", "Costs", "Obtain", "check", "data_key", "survey", "sweep"]

EVALUATION, TUNING = "evaluation", "tuning"

# Gives a trial's result for the role it plays, or None if there is none.
Obtain = Callable[[AnyTrial, str], TrialResult | None]


@dataclass
class Contender:
    """One method in one cell.

    Attributes:
        cell: What it shares with its rivals.
        method: The method, as the suite gives it.
        candidates: The settings that were searched, as judged; empty if nothing was.
        settings: The settings it was evaluated with; None while the search is incomplete.
        evaluations: One result a seed, in the order of the suite's seeds; missing ones are left out.
        untuned: Likewise with the settings as the suite gives them; empty where nothing was searched, or where the
            suite does not ask for it.
    """

    cell: Cell
    method: MethodConfig
    candidates: list[Candidate] = field(default_factory=list)
    settings: MethodConfig | None = None
    evaluations: list[TrialResult] = field(default_factory=list)
    untuned: list[TrialResult] = field(default_factory=list)

    @property
    def results(self) -> list[TrialResult]:
        """Of all its evaluations, with searched and with untuned settings."""
        return [*self.evaluations, *self.untuned]


@dataclass
class Costs:
    """What was measured in one cell, of all methods at once.

    Attributes:
        cell: The cell.
        results: One a seed, in the order of the suite's seeds; missing ones are left out.
    """

    cell: Cell
    results: list[TrialResult]


class Checked(NamedTuple):
    """What a look at a suite's data has shown.

    Attributes:
        notes: What was found of data that the user brings, in words.
        pixels: Digest of the pixels of images that the user brings, by what ``data_key`` says of their problem.
    """

    notes: list[str]
    pixels: dict[str, str]


def data_key(problem: ProblemConfig) -> str:
    """Equal for problems that differ in their network alone."""
    return json.dumps(problem.without_network().identity(), sort_keys=True)


def check(suite: Suite) -> Checked:
    """Loads every problem once, compares batch sizes with the data, and tries own code, before anything is run.

    Raises:
        UserError: Data that cannot be read, a batch larger than the training set, or own code that refuses settings.
    """
    checked = Checked([], {})
    for problem in dict.fromkeys(problem.without_network() for problem in suite.problem):
        made = make_problem(problem, suite.seeds[0])
        checked.notes.extend(line for line in made.notes if line not in checked.notes)
        samples = len(made.train)
        if isinstance(problem, ImageFolder):
            checked.pixels[data_key(problem)] = made.digest
        for batch_size in suite.batch_size:
            if batch_size > samples:
                raise UserError(
                    f"suite '{suite.suite}': batch_size {batch_size} is larger than the training set of problem "
                    f"'{problem.label}'; allowed: 1 to {samples}"
                )
    for problem in suite.problem:
        if problem.model is not None:
            _try_model(problem.model, make_problem(problem, suite.seeds[0]))
    for method in suite.methods:
        for candidate in suite.candidates(method):
            if isinstance(candidate, OwnCode):
                with _told(candidate):
                    make_method(make_problem(suite.problem[0], suite.seeds[0]).model(), candidate)
    return checked


def _try_model(model: OwnCode, problem: Problem) -> None:
    with _told(model), torch.no_grad():
        inputs, targets = problem.train.first(2)
        outputs, expected = problem.model()(inputs), targets.shape
        if outputs.shape != expected:
            raise UserError(
                f"'{model.name}': gives outputs of shape {tuple(outputs.shape)}, {tuple(expected)} is needed"
            )


@contextmanager
def _told(code: OwnCode) -> Iterator[None]:
    """What own code raises is the user's to mend."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{code.name}' with {code.settings}: {type(error).__name__}: {error}") from None


def sweep(suite: TrainingSuite, obtain: Obtain) -> list[Contender]:
    """Obtains every trial of the suite, in an order that lets a method's settings be known before it is evaluated.

    Within a cell the methods take turns seed by seed, so that a change in the machine's speed meets them all.
    """
    contenders = []
    for cell in suite.cells():
        rivals = [Contender(cell, method) for method in suite.methods]
        for rival in rivals:
            if suite.is_tuned(rival.method):
                _search(suite, rival, obtain)
            else:
                rival.settings = rival.method
        for seed in suite.seeds:
            for rival in rivals:
                if rival.settings is not None:
                    result = obtain(suite.trial(cell, rival.settings, seed), EVALUATION)
                    if result is not None:
                        rival.evaluations.append(result)
                if suite.compares_untuned(rival.method):
                    result = obtain(suite.trial(cell, rival.method, seed), EVALUATION)
                    if result is not None:
                        rival.untuned.append(result)
        contenders += rivals
    return contenders


def _search(suite: TrainingSuite, rival: Contender, obtain: Obtain) -> None:
    complete = True
    for settings, trials in suite.tuning_trials(rival.cell, rival.method):
        results = [result for trial in trials if (result := obtain(trial, TUNING)) is not None]
        complete = complete and len(results) == len(trials)
        if results:
            rival.candidates.append(Candidate.judge(settings, results, suite.target_of(rival.cell.problem)))
    if complete:
        rival.settings = best(rival.candidates).settings


def survey(suite: StepCostSuite | TheorySuite, obtain: Obtain) -> list[Costs]:
    """Obtains every trial of the suite, cell by cell."""
    return [
        Costs(cell, [r for seed in suite.seeds if (r := obtain(suite.trial(cell, seed), EVALUATION)) is not None])
        for cell in suite.cells()
    ]
