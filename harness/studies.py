"""What the kind of a suite decides: how its trials are walked, and how what came of them is shown."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

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

S = TypeVar("S", bound=Suite)
Surveyed = TypeVar("Surveyed", StepCostSuite, TheorySuite)
F = TypeVar("F")


class _Study(ABC, Generic[S, F]):
    """A suite, and what has been found of it.

    Attributes:
        suite: What was asked.
        found: What came of it, cell by cell.
    """

    ANALYSIS: ClassVar[str]  # the package that shows it, imported when it is needed: it draws, and that is slow to load

    def __init__(self, suite: S):
        self.suite = suite
        self.found: Sequence[F] = []

    @abstractmethod
    def walk(self, obtain: Obtain) -> None:
        """Obtains every trial, and keeps what came of it."""

    @abstractmethod
    def results(self) -> list[TrialResult]:
        """Those that the report rests on."""

    def notes(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        notes: list[str] = self._analysis("report").notes(self.suite, self.found)
        return notes

    def write_report(self, folder: Path, tracking_uri: str, typed: str, form: "Form" = "html") -> Path:
        """Writes the page and its figures into ``folder``; gives back the page's path."""
        from .analysis.freshness import mark

        page: Path = self._analysis("report").write_report(self.suite, self.found, folder, tracking_uri, typed, form)
        mark(page, self._digest(tracking_uri, typed))
        return page

    def fresh_report(self, folder: Path, tracking_uri: str, typed: str) -> Path | None:
        """The page in ``folder``, if writing it anew would change nothing."""
        from .analysis.freshness import is_fresh

        page = folder / "index.html"
        return page if is_fresh(page, self._digest(tracking_uri, typed)) else None

    def print_tables(self, console: Console) -> None:
        """Shows the main table."""
        self._analysis("terminal").print_tables(self.suite, self.found, console)

    def record(self) -> dict[str, Any]:
        """Everything the report says, as plain data; "rows" is the main table."""
        record: dict[str, Any] = self._analysis("record").as_record(self.suite, self.found)
        return record

    def _analysis(self, module: str) -> Any:
        return importlib.import_module(f"{__package__}.analysis.{self.ANALYSIS}.{module}")

    def _digest(self, tracking_uri: str, typed: str) -> str:
        from .analysis.freshness import digest, runs

        return digest(self.suite.model_dump(mode="json"), runs(self.results()), self._searched(), tracking_uri, typed)

    def _searched(self) -> Any:
        """What came of trials that are not among the results."""
        return None


class TrainingStudy(_Study[TrainingSuite, Contender]):
    """A training suite, and its methods in every cell."""

    ANALYSIS = "training"

    def walk(self, obtain: Obtain) -> None:
        self.found = sweep(self.suite, obtain)

    def results(self) -> list[TrialResult]:
        return [result for contender in self.found for result in contender.results]

    def _searched(self) -> Any:
        return [[candidate.model_dump(mode="json") for candidate in contender.candidates] for contender in self.found]


class _Survey(_Study[Surveyed, Costs]):
    """A suite without a search."""

    def walk(self, obtain: Obtain) -> None:
        self.found = survey(self.suite, obtain)

    def results(self) -> list[TrialResult]:
        return [result for costs in self.found for result in costs.results]


class StepCostStudy(_Survey[StepCostSuite]):
    """A step-cost suite, and what was timed in every cell."""

    ANALYSIS = "stepcost"


class TheoryStudy(_Survey[TheorySuite]):
    """A theory suite, and what was measured in every cell."""

    ANALYSIS = "theory"


Study: TypeAlias = _Study[Any, Any]


def study(suite: Suite) -> Study:
    """The study of a suite, with nothing found yet.

    Raises:
        UserError: Data are not there by which trials are told apart.
    """
    for problem in suite.problem:
        problem.require()
    if isinstance(suite, TrainingSuite):
        return TrainingStudy(suite)
    if isinstance(suite, TheorySuite):
        return TheoryStudy(suite)
    assert isinstance(suite, StepCostSuite)
    return StepCostStudy(suite)
