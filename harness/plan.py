"""What a run of a suite would do: which trials there are, which are done, and how long the rest may take."""

from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from .environment import device_problem
from .store import Store
from .studies import study
from .suite import Suite
from .trial import AnyTrial, TrialResult

__all__ = ["Plan", "plan", "print_plan"]


@dataclass
class Plan:
    """The trials of a suite.

    Attributes:
        total: How many the suite stands for.
        trials: Those that are known, each with its role and its result on disk, if there is one. The evaluations of a
            method whose settings are still to be searched are not among them.
    """

    total: int
    trials: list[tuple[AnyTrial, str, TrialResult | None]] = field(default_factory=list)

    @property
    def done(self) -> int:
        return sum(result is not None for _, _, result in self.trials)

    @property
    def seconds_left(self) -> float | None:
        """As many times the mean of what is done as there are trials left; None before the first one is done."""
        walls = [result.wall_seconds for _, _, result in self.trials if result is not None]
        return mean(walls) * (self.total - len(walls)) if walls else None

    def records(self) -> list[dict[str, Any]]:
        """The trials as plain data."""
        return [
            {"id": trial.id, "role": role, "title": trial.title, "state": _state(trial, result)}
            for trial, role, result in self.trials
        ]


def plan(suite: Suite, store: Store) -> Plan:
    """Goes through the suite and runs nothing."""
    made = Plan(suite.size())

    def look(trial: AnyTrial, role: str) -> TrialResult | None:
        result = store.load(trial.id)
        made.trials.append((trial, role, result))
        return result

    study(suite).walk(look)
    return made


def print_plan(suite: Suite, made: Plan, console: Console) -> None:
    """One line a trial, and the sums."""
    table = Table(title=f"{suite.suite}: {suite.question}", title_justify="left")
    for heading in ("role", "trial", "state"):
        table.add_column(heading, overflow="fold")
    for record in made.records():
        table.add_row(record["role"], record["title"], record["state"])
    console.print(table)
    unknown = made.total - len(made.trials)
    if unknown:
        console.print(f"and {unknown} evaluation trials, whose settings the search will choose", highlight=False)
    left = made.seconds_left
    time = "" if left is None else f", about {left / 60:.1f} min left, judging by those"
    console.print(f"{made.done} of {made.total} trials are done{time}", highlight=False)


def _state(trial: AnyTrial, result: TrialResult | None) -> str:
    if result is not None:
        return f"{result.outcome}, {result.wall_seconds:.1f} s"
    reason = device_problem(trial.device)
    return "to run" if reason is None else f"will be skipped: {reason}"
