"""``ggn gate`` from its arguments to its exit code."""

import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..errors import UserError
from ..store import write_atomically
from .commits import Repository
from .gate import Settings, compare
from .recorded import Recorded, recorded_at
from .table import as_json, as_markdown, print_report

__all__ = ["run_gate"]

INTERRUPTED = 130


def run_gate(base: str, head: str, settings: Settings, as_json_text: bool, markdown: Path | None) -> int:
    """Compares two commits of the checkout around the working folder, prints the result, and returns the exit code.

    Raises:
        UserError: The commits, the pattern or the file cannot be used.
    """
    if markdown is not None and not markdown.parent.is_dir():
        raise UserError(f"{markdown}: there is no folder {markdown.parent}")
    repository = Repository(Path.cwd())
    first, second = repository.commit(base), repository.commit(head)
    shown = Console(stderr=True)
    try:
        with _Progress(shown) as progress:
            report = compare(repository, first, second, settings, progress)
    except KeyboardInterrupt:
        click.echo("interrupted: nothing was decided, and nothing is left behind", err=True)
        return INTERRUPTED
    recorded = _recorded([first.hash, second.hash])
    if markdown is not None:
        write_atomically(markdown, as_markdown(report, recorded))
    if as_json_text:
        click.echo(as_json(report, recorded))
    else:
        console = Console()
        print_report(report, recorded, console if console.is_terminal else Console(width=160))
    return report.verdict.exit_code


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console):
        self.console = console
        self._last_line = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self._bar = Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True
        )
        self._task = self._bar.add_task("setting up", total=None)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, case: str, position: int, total: int, number: int) -> None:
        again = "" if number == 1 else f", measurement {number} of what is not settled"
        self._bar.update(self._task, completed=position - 1, total=total, description=f"{case}{again}")
        if not self.console.is_terminal and (time.monotonic() - self._last_line > 10 or position == 1):
            self._last_line = time.monotonic()
            self.console.print(f"[{position}/{total}] {case}{again}", markup=False, highlight=False, soft_wrap=True)


def _recorded(commits: list[str]) -> Recorded:
    """What MLflow holds of the commits; a server that does not answer takes nothing from the verdict."""
    try:
        return recorded_at(commits)
    except UserError as error:
        click.echo(f"warning: {error}", err=True)
        return {}
