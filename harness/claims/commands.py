"""What the verbs of ``ggn claims`` do; cli.py declares them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ..errors import UserError
from ..progress import warn
from ..runner import Again, recorded
from ..store import Store
from ..suite import Suite
from ..suite_run import run_suite
from ..sweep import Obtain
from ..tracking import Tracker, tracking_uri
from ..trial import AnyTrial, TrialResult
from ..wording import counted
from .check import CheckedClaim, check
from .claim_file import fingerprint, load_claims, suites_of
from .registry import Registration, Registry
from .saved import Saved, save
from .verdict import Verdict

if TYPE_CHECKING:
    from ..analysis.page import Form

__all__ = ["check_claims", "exit_code", "list_claims", "run_claims"]

FINE, NOT_ALL, INCONCLUSIVE = 0, 1, 3


def exit_code(checked: Sequence[CheckedClaim]) -> int:
    """0 if all are reproduced; 1 if some are not, whatever the others; 3 if it is only that some are inconclusive."""
    verdicts = {item.verdict for item in checked}
    if verdicts - {Verdict.REPRODUCED, Verdict.INCONCLUSIVE}:
        return NOT_ALL
    return INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else FINE


def list_claims(names: Sequence[str], full: bool, as_json: bool) -> None:
    """Prints the claims: where the paper makes them, what measures them, and their fingerprints."""
    claims = load_claims(names)
    suites = suites_of(claims, full)
    records = [
        {
            "claim": claim.claim,
            "statement": claim.statement,
            "where": claim.where,
            "source": str(claim.source),
            "suites": claim.suites(),
            "trials": sum(suites[name].size() for name in claim.suites()),
            "parts": [
                {"part": part.part, "accept": str(part.accept), "source": str(part.source), "decides": part.decides}
                for part in claim.parts
            ],
            "fingerprint": fingerprint(claim, suites),
        }
        for claim in claims
    ]
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    for claim, record in zip(claims, records, strict=True):
        click.echo(f"{claim.claim} ({record['fingerprint']}): {claim.statement}")
        click.echo(f"  where: {claim.where}")
        trials = counted(sum(suites[name].size() for name in claim.suites()), "trial")
        click.echo(f"  source: {claim.source}; measured by {', '.join(claim.suites())} ({trials})")
        for part in claim.parts:
            shown = "" if part.decides else " (shown, does not decide)"
            click.echo(f"  {part.part}: {part.accept}{shown}")


def run_claims(
    names: Sequence[str], full: bool, again: str, folder: Path | None, console: Console, as_json: bool
) -> int:
    """Registers the claims, runs what is missing of their suites, and writes the page.

    Args:
        names: Which claims; all if empty.
        full: Run the suites' long versions.
        again: Which finished trials to run again.
        folder: Where to save the results for others to check; None for nowhere.
        console: Where to write.
        as_json: Print the verdicts as JSON.

    Returns:
        How many trials failed.
    """
    claims = load_claims(names)
    suites = suites_of(claims, full)
    store = Store(Path.cwd())
    Registry(store.root).add({claim.claim: fingerprint(claim, suites) for claim in claims}, full)
    failed = 0
    for name, suite in suites.items():
        console.print(f"{name}: {suite.question}", style="bold", highlight=False)
        served = [claim.claim for claim in claims if name in claim.suites()]
        typed = f"{name} --full" if full else name
        ran = run_suite(suite, typed, store, console, Again(again), claims=served)
        for warning in ran.warnings:
            warn(console, warning)
        failed += ran.failed
    obtain = _recorded(suites, store)
    registered = Registry(store.root).read()
    checked = check(claims, full, obtain, registered)
    if folder is not None:
        save(folder, full, datetime.now(UTC).isoformat(timespec="seconds"), checked, registered, obtain)
        console.print(f"saved: {folder}", highlight=False, soft_wrap=True)
    _present(checked, _command("run", names, full), console, as_json)
    return failed


def check_claims(
    names: Sequence[str], full: bool, folder: Path | None, console: Console, as_json: bool, form: "Form" = "html"
) -> int:
    """Recomputes the verdicts from recorded samples, or from saved ones, and writes the page.

    Args:
        names: Which claims; all if empty.
        full: Check the suites' long versions; of saved results they themselves say which.
        folder: Where saved results are; None for what is recorded in this working folder.
        console: Where to write.
        as_json: Print the verdicts as JSON.
        form: The page's format.

    Returns:
        The exit code.
    """
    claims = load_claims(names)
    registered: list[Registration]
    obtain: Obtain
    if folder is not None:
        saved = Saved(folder)
        full = saved.manifest.full
        registered, obtain = saved.manifest.registered, saved.obtain
    else:
        store = Store(Path.cwd())
        registered, obtain = Registry(store.root).read(), _recorded(suites_of(claims, full), store)
    checked = check(claims, full, obtain, registered)
    if not any(item.results() for item in checked):
        raise UserError(f"nothing is recorded of these claims here: {_command('run', names, full)}")
    _present(checked, _command("check", names, full, folder), console, as_json, form)
    if folder is not None:
        for difference in saved.differences(checked):
            warn(console, difference)
    return exit_code(checked)


def _recorded(suites: dict[str, Suite], store: Store) -> Obtain:
    """What is recorded, on disk or in the experiment of any of the suites."""
    sources = [recorded(store, partial(Tracker, suite)) for suite in suites.values()]

    def load(trial: AnyTrial, role: str) -> TrialResult | None:
        known = store.load(trial.id)
        return known or next((found for source in sources if (found := source(trial, role)) is not None), None)

    return load


def _present(
    checked: Sequence[CheckedClaim], command: str, console: Console, as_json: bool, form: "Form" = "html"
) -> None:
    from ..analysis.claims.terminal import print_verdicts

    page = _page(checked, command, form)
    if as_json:
        record = {"report": str(page), "exit_code": exit_code(checked), "claims": [item.record() for item in checked]}
        click.echo(json.dumps(record, indent=2, allow_nan=False))
        return
    print_verdicts(checked, console)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def _page(checked: Sequence[CheckedClaim], command: str, form: "Form") -> Path:
    """The page of verdicts, written anew if anything has changed."""
    from ..analysis.freshness import digest, is_fresh, mark, runs

    folder = Path.cwd() / "reports" / "claims"
    ran = [runs(item.results()) for item in checked]
    linked = sorted({page.parent.name for page in folder.parent.glob("*/index.html")} - {folder.name})
    made_from = digest([item.record() for item in checked], ran, linked, tracking_uri(), command)
    if form == "html" and is_fresh(folder / "index.html", made_from):
        return folder / "index.html"
    from ..analysis.claims.report import write_report

    page = write_report(checked, folder, tracking_uri(), command, form)
    mark(page, made_from)
    return page


def _command(verb: str, names: Sequence[str], full: bool, folder: Path | None = None) -> str:
    words = ["ggn claims", verb, *names]
    words += [f"--from {folder}"] if folder is not None else ["--full"] if full else []
    return " ".join(words)
