"""What the kind of a suite decides: how its trials are walked, and how what came of them is shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from .stepcost_suite import StepCostSuite
from .suite import Suite
from .sweep import Contender, Costs, Obtain, survey, sweep
from .theory_suite import TheorySuite
from .training_suite import TrainingSuite
from .trial import TrialResult

if TYPE_CHECKING:
    from .analysis.page import Form

__all__ = ["StepCostStudy", "Study", "TheoryStudy", "TrainingStudy", "study"]


class Study(Protocol):
    """A suite, and what has been found of it."""

    def walk(self, obtain: Obtain) -> None:
        """Obtains every trial, and keeps what came of it."""

    def results(self) -> list[TrialResult]:
        """Those that the report rests on."""

    def notes(self) -> list[str]:
        """What a reader must know before believing the numbers."""

    def write_report(self, folder: Path, tracking_uri: str, typed: str, form: "Form" = "html") -> Path:
        """Writes the page and its figures into ``folder``; gives back the page's path."""

    def print_tables(self, console: Console) -> None:
        """Shows the main table."""

    def record(self) -> dict[str, Any]:
        """Everything the report says, as plain data; "rows" is the main table."""


class TrainingStudy:
    """A training suite, and its methods in every cell."""

    def __init__(self, suite: TrainingSuite):
        self.suite = suite
        self.contenders: list[Contender] = []

    def walk(self, obtain: Obtain) -> None:
        self.contenders = sweep(self.suite, obtain)

    def results(self) -> list[TrialResult]:
        return [result for contender in self.contenders for result in (*contender.evaluations, *contender.untuned)]

    def notes(self) -> list[str]:
        from .analysis.training.report import notes

        return notes(self.suite, self.contenders)

    def write_report(self, folder: Path, tracking_uri: str, typed: str, form: "Form" = "html") -> Path:
        from .analysis.training.report import write_report

        return write_report(self.suite, self.contenders, folder, tracking_uri, typed, form)

    def print_tables(self, console: Console) -> None:
        from .analysis.training.terminal import print_tables

        print_tables(self.suite, self.contenders, console)

    def record(self) -> dict[str, Any]:
        from .analysis.training.record import as_record

        return as_record(self.suite, self.contenders)


class StepCostStudy:
    """A step-cost suite, and what was timed in every cell."""

    def __init__(self, suite: StepCostSuite):
        self.suite = suite
        self.costs: list[Costs] = []

    def walk(self, obtain: Obtain) -> None:
        self.costs = survey(self.suite, obtain)

    def results(self) -> list[TrialResult]:
        return [result for costs in self.costs for result in costs.results]

    def notes(self) -> list[str]:
        from .analysis.stepcost.report import notes

        return notes(self.suite, self.costs)

    def write_report(self, folder: Path, tracking_uri: str, typed: str, form: "Form" = "html") -> Path:
        from .analysis.stepcost.report import write_report

        return write_report(self.suite, self.costs, folder, tracking_uri, typed, form)

    def print_tables(self, console: Console) -> None:
        from .analysis.stepcost.terminal import print_tables

        print_tables(self.suite, self.costs, console)

    def record(self) -> dict[str, Any]:
        from .analysis.stepcost.record import as_record

        return as_record(self.suite, self.costs)


class TheoryStudy:
    """A theory suite, and what was measured in every cell."""

    def __init__(self, suite: TheorySuite):
        self.suite = suite
        self.costs: list[Costs] = []

    def walk(self, obtain: Obtain) -> None:
        self.costs = survey(self.suite, obtain)

    def results(self) -> list[TrialResult]:
        return [result for costs in self.costs for result in costs.results]

    def notes(self) -> list[str]:
        from .analysis.theory.report import notes

        return notes(self.suite, self.costs)

    def write_report(self, folder: Path, tracking_uri: str, typed: str, form: "Form" = "html") -> Path:
        from .analysis.theory.report import write_report

        return write_report(self.suite, self.costs, folder, tracking_uri, typed, form)

    def print_tables(self, console: Console) -> None:
        from .analysis.theory.terminal import print_tables

        print_tables(self.suite, self.costs, console)

    def record(self) -> dict[str, Any]:
        from .analysis.theory.record import as_record

        return as_record(self.suite, self.costs)


def study(suite: Suite) -> Study:
    """The study of a suite, with nothing found yet."""
    if isinstance(suite, TrainingSuite):
        return TrainingStudy(suite)
    if isinstance(suite, TheorySuite):
        return TheoryStudy(suite)
    assert isinstance(suite, StepCostSuite)
    return StepCostStudy(suite)
