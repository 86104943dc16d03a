"""The verbs of ``ggn``."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .errors import UserError

__all__ = ["main"]

FINE, NO, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


@contextmanager
def _users_errors() -> Iterator[None]:
    """Shows what the user can mend as a message, without a traceback."""
    from .tracking import TrackingError

    try:
        yield
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(WRONG_INPUT)
    except TrackingError as error:
        click.echo(f"error: the tracking store failed: {error}; finished trials are on disk", err=True)
        sys.exit(WRONG_INPUT)
    except KeyboardInterrupt:
        click.echo("interrupted: finished trials are kept; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        with _users_errors():
            function(*args, **kwargs)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gram-gauss-newton")
def main() -> None:
    """Gram-Gauss-Newton: run benchmark suites, read their reports.

    Exit codes: 0 fine, 1 the answer is no (a trial failed), 2 the input is wrong, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@main.command()
@click.argument("suites", nargs=-1, required=True, metavar="SUITE…")
@click.option("--retry", is_flag=True, help="Run again what ran out of memory or time, or crashed.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@_verb
def run(suites: tuple[str, ...], retry: bool, as_json: bool) -> None:
    """Run what is missing of each SUITE (a shipped suite's name, or a .yaml file), then write its report.

    Results are kept under .ggn/ in this folder and recorded in MLflow (sqlite:///mlflow.db here, or where
    MLFLOW_TRACKING_URI points); the report goes to reports/SUITE/index.html.
    """
    from .analysis.report import write_report
    from .analysis.terminal import as_records, print_tables
    from .progress import Reporter
    from .runner import Runner
    from .store import Store
    from .suite_file import load_suite
    from .tracking import Tracker

    console = _console(stderr=as_json)
    loaded = [load_suite(name, _cores()) for name in suites]  # all of them before any runs
    failed = False
    printed: list[dict[str, Any]] = []
    for suite in loaded:
        store, tracker = Store(Path.cwd()), Tracker(suite)
        reporter = Reporter(suite.size(), console)
        runner = Runner(suite, store, tracker, reporter, retry)
        contenders = runner.run()
        page = write_report(suite, contenders, _report_folder(suite.suite), tracker.uri)
        if runner.waiting:
            reporter.warn(
                f"{runner.waiting} results are on disk only: the same command records them when the server is back"
            )
        else:
            tracker.attach(page.parent)
        failed = failed or any(
            not r.outcome.is_answer and r.outcome != "skipped" for c in contenders for r in c.evaluations
        )
        if as_json:
            printed.append({"suite": suite.suite, "report": str(page), "rows": as_records(suite, contenders)})
        else:
            print_tables(suite, contenders, console)
            console.print(
                f"{reporter.reused} of {reporter.total} trials were there already", style="dim", highlight=False
            )
            console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(printed, indent=2))
    sys.exit(NO if failed else FINE)


@main.command()
@click.argument("suites", nargs=-1, required=True, metavar="SUITE…")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@_verb
def report(suites: tuple[str, ...], as_json: bool) -> None:
    """Rewrite the report of each SUITE from what is recorded; runs nothing."""
    from .analysis.report import write_report
    from .analysis.terminal import as_records, print_tables
    from .runner import recorded
    from .store import Store
    from .suite_file import load_suite
    from .tracking import Tracker

    console = _console()
    printed: list[dict[str, Any]] = []
    for suite in [load_suite(name, _cores()) for name in suites]:
        tracker = Tracker(suite)
        contenders = recorded(suite, Store(Path.cwd()), tracker)
        if not any(contender.evaluations for contender in contenders):
            raise UserError(f"nothing is recorded of suite '{suite.suite}' here: ggn run {suite.suite}")
        page = write_report(suite, contenders, _report_folder(suite.suite), tracker.uri)
        if as_json:
            printed.append({"suite": suite.suite, "report": str(page), "rows": as_records(suite, contenders)})
        else:
            print_tables(suite, contenders, console)
            console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(printed, indent=2))


@main.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_verb
def list_(as_json: bool) -> None:
    """List the suites, problems and methods there are, with their settings."""
    from .methods import METHODS
    from .problems import PROBLEMS
    from .suite_file import load_suite, shipped_suites

    suites = {name: load_suite(name, _cores()) for name in shipped_suites()}
    if as_json:
        click.echo(
            json.dumps(
                {
                    "suites": {name: {"question": s.question, "trials": s.size()} for name, s in suites.items()},
                    "problems": {name: _defaults(model) for name, model in PROBLEMS.items()},
                    "methods": {name: _defaults(model) for name, (model, _) in METHODS.items()},
                },
                indent=2,
            )
        )
        return
    click.echo("suites")
    for name, suite in suites.items():
        click.echo(f"  {name}: {suite.question} ({suite.size()} trials)")
    click.echo("problems")
    for name, model in PROBLEMS.items():
        click.echo(f"  {name}: {_first_line(model)} {_defaults(model)}")
    click.echo("methods")
    for name, (model, _) in METHODS.items():
        click.echo(f"  {name}: {_first_line(model)} {_defaults(model)}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_verb
def info(as_json: bool) -> None:
    """Show the machine, the software and the commit that results are recorded with."""
    from .environment import environment

    facts = environment()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        click.echo(f"{key}: {value}")


def _console(stderr: bool = False) -> Console:
    """Tables need room: where there is no terminal to ask, lines may be longer than 80 characters."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=130)


def _cores() -> int:
    return os.cpu_count() or 1


def _report_folder(suite: str) -> Path:
    return Path.cwd() / "reports" / suite


def _first_line(model: type) -> str:
    return (model.__doc__ or "").splitlines()[0]


def _defaults(model: Any) -> dict[str, Any]:
    return {
        key: "required" if field.is_required() else field.default
        for key, field in model.model_fields.items()
        if key not in ("name", "digest")
    }
