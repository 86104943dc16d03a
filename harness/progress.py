"""Shows how a run is getting on: a bar with the time left on a terminal, a line a trial elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .trial import AnyTrial, Outcome, TrialResult

__all__ = ["Reporter", "warn"]


class Reporter:
    """Reports on one suite's trials.

    Args:
        total: How many trials the suite stands for.
        console: Where to write.
    """

    def __init__(self, total: int, console: Console):
        self.total = total
        self.console = console
        self.reused = 0
        self.failures = 0
        self._done = 0
        self._plain = not console.is_terminal
        self._last_line = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=self._plain,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, trial: AnyTrial, role: str) -> None:
        self._bar.update(self._task, description=f"{role}: {trial.title}")

    def end(self, trial: AnyTrial, role: str, result: TrialResult, reused: bool) -> None:
        self._done += 1
        self.reused += reused
        self.failures += not result.outcome.is_answer and result.outcome is not Outcome.SKIPPED
        self._bar.update(self._task, advance=1)
        trouble = result.outcome is not Outcome.COMPLETED and not reused
        if trouble and result.outcome is not Outcome.DIVERGED:
            self.warn(f"{trial.title}: {result.outcome}: {result.reason.splitlines()[-1] if result.reason else ''}")
        if self._plain and not reused and (time.monotonic() - self._last_line > 1 or self._done == self.total):
            self._last_line = time.monotonic()
            line = f"[{self._done}/{self.total}] {role}: {trial.title}: {result.outcome}, {result.wall_seconds:.1f} s"
            self.note(line + "".join(f", gone on after epoch {epoch}" for epoch in result.resumed_after))

    def note(self, message: str) -> None:
        """Shows what is no warning, in one line, whatever the width."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        warn(self.console, message)


def warn(console: Console, message: str) -> None:
    """Shows a warning in one line, whatever the width."""
    console.print(f"warning: {message}", style="yellow", highlight=False, markup=False, soft_wrap=True)
