"""The verbs of ``ggn``."""

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console

from .errors import UserError
from .wording import counted

if TYPE_CHECKING:
    from .analysis.page import Form
    from .store import Store
    from .studies import Study
    from .suite import Suite

__all__ = ["main"]

FINE, FAILED, WRONG_INPUT, BUG, INTERRUPTED = 0, 1, 2, 70, 130
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """Shows what the user can mend as a message, without a traceback; ends with the exit codes that ``main`` lists."""

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(WRONG_INPUT)
        except BrokenPipeError:  # the reader of our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FINE)
        except OSError as error:
            if error.errno not in NO_SPACE:
                _defect()
            click.echo(f"error: {error.filename or 'the disk'}: {error.strerror}; finished trials are kept", err=True)
            sys.exit(WRONG_INPUT)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted: finished trials are kept; the same command goes on from here", err=True)
            sys.exit(INTERRUPTED)
        except Exception:
            _defect()

    return guarded


def _defect() -> NoReturn:
    traceback.print_exc()
    click.echo("this is a defect of ggn, please report it with the lines above", err=True)
    sys.exit(BUG)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gram-gauss-newton")
def main() -> None:
    """Gram-Gauss-Newton: run benchmark suites, read their reports.

    Exit codes: 0 fine; 1 the answer is no (a trial failed, a regression); 2 the input is wrong, or the tracking store
    does not answer; 3 inconclusive (claims, gate); 70 a defect of ggn; 130 interrupted.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _suites(verb: Callable[..., None]) -> Callable[..., None]:
    """The arguments of a verb that takes suites."""
    for parameter in (
        click.option("--json", "as_json", is_flag=True, help="Print the results as JSON."),
        click.option("--full", is_flag=True, help="The long version, where a suite has one."),
        click.option("--only", multiple=True, metavar="KEY=VALUE", help="Keep a part, such as method=ggn. Repeatable."),
        click.option(
            "--set", "changes", multiple=True, metavar="KEY=VALUE",
            help="Set a value, such as problem.width=256. Repeatable.",
        ),
        click.argument("suites", nargs=-1, required=True, metavar="SUITE…"),
    ):  # fmt: skip
        verb = parameter(verb)
    return verb


@main.command()
@_suites
@click.option(
    "--again",
    type=click.Choice(["failed", "outdated", "models", "all"]),
    help="Run finished trials again: those that failed (memory, time, crash), those that other code or another torch "
    "computed, those whose model --log-models misses, or all.",
)
@click.option("--engine", type=click.Choice(["local", "dask"]), help="Where trials run; local unless told otherwise.")
@click.option("--scheduler", metavar="ADDRESS", help="Join this Dask cluster, such as tcp://10.0.0.1:8786.")
@click.option("--jobs", type=click.IntRange(min=1), help="Trials at once here; they disturb each other's timings.")
@click.option("--share-machine", is_flag=True, help="Let trials that time steps run beside others on one machine.")
@click.option("--plan", "only_plan", is_flag=True, help="Show the trials and what is done of them; run nothing.")
@click.option(
    "--system-metrics",
    is_flag=True,
    envvar="MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
    help="Record this machine's load, too, with the invocation's run in MLflow.",
)
@click.option("--log-models", is_flag=True, help="Record the trained models, too, with the evaluations in MLflow.")
@_verb
def run(
    suites: tuple[str, ...],
    changes: tuple[str, ...],
    only: tuple[str, ...],
    full: bool,
    as_json: bool,
    again: str | None,
    engine: str | None,
    scheduler: str | None,
    jobs: int | None,
    share_machine: bool,
    only_plan: bool,
    system_metrics: bool,
    log_models: bool,
) -> None:
    """Run what is missing of each SUITE (a shipped suite's name, or a .yaml file), then write its report.

    Results are kept under .ggn/ in this folder and recorded in MLflow (sqlite:///mlflow.db here, or where
    MLFLOW_TRACKING_URI points); the report goes to reports/SUITE/index.html.
    """
    from .engine import EngineOptions
    from .progress import warn
    from .runner import Again
    from .store import Store
    from .suite_file import load_suite
    from .suite_run import run_suite

    if again == "models" and not log_models:
        raise UserError("--again models: only together with --log-models")
    console = _console(stderr=as_json)
    store = Store(Path.cwd())
    failed = 0
    printed: list[dict[str, Any]] = []
    loaded = [
        (f"{name} --full" if full else name, load_suite(name, _cores(), changes, only, full)) for name in suites
    ]  # all read before any runs
    for _, suite in loaded:
        if log_models and suite.measure != "training":
            raise UserError(f"--log-models: suite '{suite.suite}' measures {suite.measure} and keeps no trained model")
    if only_plan:
        _plan([suite for _, suite in loaded], store, as_json)
        return
    options = EngineOptions(engine, scheduler, jobs, share_machine)
    for typed, suite in loaded:
        ran = run_suite(
            suite, typed, store, console, Again(again or "none"),
            options=options, log_models=log_models, system_metrics=system_metrics,
        )  # fmt: skip
        _present(suite, ran.found, ran.page, typed, console, printed if as_json else None)
        for warning in ran.warnings:
            warn(console, warning)
        failed += ran.failed
        if not as_json:
            console.print(f"{ran.reused} of {ran.total} trials were there already", style="dim", highlight=False)
            console.print(f"report: {ran.page}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(printed, indent=2))
    sys.exit(FAILED if failed else FINE)


def _format(verb: Callable[..., None]) -> Callable[..., None]:
    """The option of a verb whose page may have several formats."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["json", "md", "html"]),
        help="html (as always): reports/…/index.html. md: report.md beside it. json: printed, as --json does.",
    )(verb)


def _form(form: str | None, as_json: bool) -> "tuple[Form, bool]":
    """The page's format, and whether to print JSON."""
    if as_json and form not in (None, "json"):
        raise UserError(f"--json and --format {form}: give one of them")
    return ("md" if form == "md" else "html"), as_json or form == "json"


@main.command()
@_suites
@_format
@_verb
def report(
    suites: tuple[str, ...],
    changes: tuple[str, ...],
    only: tuple[str, ...],
    full: bool,
    as_json: bool,
    form: str | None,
) -> None:
    """Rewrite the report of each SUITE from what is recorded; runs nothing."""
    from .runner import recorded
    from .store import Store
    from .studies import study
    from .suite_file import load_suite
    from .tracking import Tracker, tracking_uri

    page_form, as_json = _form(form, as_json)
    console = _console(stderr=as_json)
    store = Store(Path.cwd())
    printed: list[dict[str, Any]] = []
    for typed, suite in [(name, load_suite(name, _cores(), changes, only, full)) for name in suites]:
        found = study(suite)
        found.walk(recorded(store, partial(Tracker, suite)))
        if not found.results():
            raise UserError(f"nothing is recorded of suite '{suite.suite}' here: ggn run {typed}")
        page = found.write_report(Path.cwd() / "reports" / suite.suite, tracking_uri(), typed, page_form)
        _present(suite, found, page, typed, console, printed if as_json else None)
        if not as_json:
            console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(printed, indent=2))


def _plan(suites: "list[Suite]", store: "Store", as_json: bool) -> None:
    from .plan import plan, print_plan

    plans = [(suite, plan(suite, store)) for suite in suites]
    if as_json:
        records = [
            {"suite": s.suite, "total": p.total, "done": p.done, "seconds_left": p.seconds_left, "trials": p.records()}
            for s, p in plans
        ]
        click.echo(json.dumps(records, indent=2))
        return
    for suite, made in plans:
        print_plan(suite, made, _console())


def _present(
    suite: "Suite", found: "Study", page: Path, typed: str, console: Console, printed: list[dict[str, Any]] | None
) -> None:
    """Shows what a suite found, on the console or as JSON, and what to know before believing it."""
    from .environment import is_current
    from .progress import warn

    if printed is None:
        found.print_tables(console)
    else:
        printed.append({"suite": suite.suite, "report": str(page), **found.record()})
    for note in found.notes():
        warn(console, note)
    outdated = sum(not is_current(result.environment) for result in found.results())
    if outdated:
        warn(
            console,
            f"{outdated} results were computed by other code or another torch: ggn run {typed} --again outdated",
        )


@main.command()
@click.argument("code", metavar="PACKAGE.MODULE:NAME")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A setting, such as lr=0.1. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@_verb
def check(code: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Try your own method or model on small problems, and say what would go wrong with it in a suite."""
    from .contract import check_own_code, code_to_check

    findings = []
    told = ""
    for finding in check_own_code(*code_to_check(code, changes)):
        findings.append(finding)
        reason = f": {finding.reason}" if finding.reason else ""
        if not as_json:
            click.echo(
                f"{'✗' if reason else '✓'} {finding.check}{': the same' if reason and reason == told else reason}"
            )
        told = reason or told
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    sys.exit(FAILED if any(finding.reason for finding in findings) else FINE)


@main.command()
@click.argument("suites", nargs=-1, metavar="[SUITE…]")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@_verb
def sync(suites: tuple[str, ...], as_json: bool) -> None:
    """Record in MLflow what is on disk and not there yet, as after a server's absence; runs nothing.

    Without a SUITE, all suites that were run in this folder, each as it was run last.
    """
    from .store import Store
    from .suite_file import load_suite
    from .sync import remembered, sync
    from .tracking import Tracker

    store = Store(Path.cwd())
    printed = []
    known = [(load_suite(name, _cores()), ()) for name in suites] if suites else remembered(store)
    for suite, claims in known:
        with store.turn():
            tracker = Tracker(suite, claims)
        done = sync(suite, store, tracker, Path.cwd() / "reports" / suite.suite)
        printed.append({"suite": suite.suite, **done._asdict()})
        if not as_json:
            click.echo(f"{suite.suite}: {done.recorded} recorded, {done.held} were there, {done.missing} not on disk")
    if as_json:
        click.echo(json.dumps(printed, indent=2))
    elif not printed:
        click.echo("no suite has been run in this folder")


@main.command()
@click.argument("suites", nargs=-1, metavar="[SUITE…]")
@click.option("--metric", "metrics", multiple=True, help="A metric to show; may be repeated.")
@click.option("--by", multiple=True, help="Group by this alone, such as commit or problem.width; may be repeated.")
@click.option("--where", multiple=True, metavar="KEY=VALUE", help="Only these runs; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, with the ids of the runs.")
@_verb
def compare(
    suites: tuple[str, ...], metrics: tuple[str, ...], by: tuple[str, ...], where: tuple[str, ...], as_json: bool
) -> None:
    """Compare the runs of each SUITE (a name) that MLflow holds: per cell, method and commit.

    Without a SUITE, of all suites. Needs no suite file and no results on disk.
    """
    from .compare import as_records, compare, print_comparison

    comparison = compare(suites, metrics, by, where)
    if as_json:
        click.echo(json.dumps(as_records(comparison), indent=2))
    else:
        print_comparison(comparison, _console())


@main.command()
@click.argument("base")
@click.argument("head", default="HEAD")
@click.option("--only", multiple=True, metavar="PATTERN", help="Benchmarks whose name holds this; * matches anything.")
@click.option("--pairs", default=50, show_default=True, type=click.IntRange(min=30), help="Pairs a benchmark.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads for torch.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write a comment's table there.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, raw samples included, as JSON.")
@_verb
def gate(
    base: str, head: str, only: tuple[str, ...], pairs: int, threads: int, markdown: Path | None, as_json: bool
) -> None:
    """Compare two commits of this checkout: is anything slower, heavier or less exact at HEAD than at BASE?

    Both are measured side by side, in pairs of random order, by HEAD's benchmarks; what looks changed, again.
    Exit codes: 0 no regression, 1 a regression (or a benchmark that HEAD breaks), 2 the input is wrong, 3 inconclusive.
    """
    from .gate.command import run_gate
    from .gate.gate import Settings

    sys.exit(run_gate(base, head, Settings(only=only, pairs=pairs, threads=threads), as_json, markdown))


@main.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@_verb
def list_(as_json: bool) -> None:
    """List the suites, problems and methods there are, with their settings."""
    from . import plugins
    from .methods import METHODS
    from .problems import PROBLEMS
    from .suite_file import load_suite, shipped_suites

    own = {"methods": plugins.registered(plugins.METHODS), "models": plugins.registered(plugins.MODELS)}
    suites = {name: load_suite(name, _cores()) for name in shipped_suites()}
    if as_json:
        click.echo(
            json.dumps(
                {
                    "suites": {name: {"question": s.question, "trials": s.size()} for name, s in suites.items()},
                    "problems": {name: _defaults(model) for name, model in PROBLEMS.items()},
                    "methods": {name: _defaults(model) for name, (model, _) in METHODS.items()},
                    "registered": own,
                },
                indent=2,
            )
        )
        return
    click.echo("suites")
    for name, suite in suites.items():
        click.echo(f"  {name}: {suite.question} ({counted(suite.size(), 'trial')})")
    click.echo("problems")
    for name, model in PROBLEMS.items():
        click.echo(f"  {name}: {_first_line(model)} {_defaults(model)}")
    click.echo("methods")
    for name, (method, _) in METHODS.items():
        click.echo(f"  {name}: {_first_line(method)} {_defaults(method)}")
    for kind, found in own.items():
        if found:
            click.echo(f"{kind} of installed packages")
        for name, path in found.items():
            click.echo(f"  {name}: {path}")


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


@main.group()
def claims() -> None:
    """The paper's claims: list them, measure them, recompute their verdicts."""


def _claim_names(verb: Callable[..., None]) -> Callable[..., None]:
    """The arguments of a verb that takes claims."""
    for parameter in (
        click.option("--json", "as_json", is_flag=True, help="Print as JSON."),
        click.option("--full", is_flag=True, help="The long versions of the suites."),
        click.argument("names", nargs=-1, metavar="[CLAIM]…"),
    ):
        verb = parameter(verb)
    return verb


@claims.command(name="list")
@_claim_names
@_verb
def list_claims(names: tuple[str, ...], full: bool, as_json: bool) -> None:
    """List the claims: where the paper makes them, what measures them, what would show them."""
    from .claims import commands

    commands.list_claims(names, full, as_json)


@claims.command(name="run")
@_claim_names
@click.option("--again", type=click.Choice(["failed", "outdated", "all"]), help="Run finished trials again.")
@click.option("--save", "folder", type=click.Path(path_type=Path), help="Save the results there, for others to check.")
@_verb
def run_claims(names: tuple[str, ...], full: bool, as_json: bool, again: str | None, folder: Path | None) -> None:
    """Run what is missing of the suites behind each CLAIM (all if none is named), then write the page of verdicts.

    The claims are registered first: what changes in them afterwards is told. Exit code 1 if a trial failed; what the
    verdicts are is `ggn claims check`'s to say.
    """
    from .claims import commands

    failed = commands.run_claims(names, full, again or "none", folder, _console(stderr=as_json), as_json)
    sys.exit(FAILED if failed else FINE)


@claims.command(name="check")
@_claim_names
@click.option("--from", "folder", type=click.Path(path_type=Path), help="Check the results saved there.")
@_format
@_verb
def check_claims(names: tuple[str, ...], full: bool, as_json: bool, folder: Path | None, form: str | None) -> None:
    """Recompute the verdict of each CLAIM (all if none is named) from recorded results; runs nothing.

    Exit codes: 0 all are reproduced, 1 some are not (partial and not attempted included), 3 some are inconclusive.
    """
    from .claims import commands

    page_form, as_json = _form(form, as_json)
    sys.exit(commands.check_claims(names, full, folder, _console(stderr=as_json), as_json, page_form))


def _console(stderr: bool = False) -> Console:
    """Tables need room: where there is no terminal to ask, lines may be longer than 80 characters."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=130)


def _cores() -> int:
    return os.cpu_count() or 1


def _first_line(model: type) -> str:
    return (model.__doc__ or "").splitlines()[0]


def _defaults(model: Any) -> dict[str, Any]:
    fields = model.model_fields.items()
    return {key: _default(field) for key, field in fields if key not in ("name", "digest")}


def _default(field: Any) -> Any:
    """A key's default as JSON can have it."""
    if field.is_required():
        return "required"
    return str(field.default) if isinstance(field.default, Path) else field.default
