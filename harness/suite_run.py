"""Runs one suite, from its tracker to its report, as ``ggn run`` and ``ggn claims run`` do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from .engine import EngineOptions
from .progress import Reporter
from .runner import Again, Runner
from .store import Store
from .studies import Study, study
from .suite import Suite
from .tracking import Tracker, TrackingError
from .wording import counted

__all__ = ["SuiteRun", "run_suite"]


@dataclass(frozen=True)
class SuiteRun:
    """What came of a suite.

    Attributes:
        found: The suite with its results.
        page: The report's.
        total: How many trials the suite has.
        reused: How many were there already.
        failed: How many failed.
        warnings: What the user should know, each a sentence.
    """

    found: Study
    page: Path
    total: int
    reused: int
    failed: int
    warnings: list[str]


def run_suite(
    suite: Suite,
    typed: str,
    store: Store,
    console: Console,
    again: Again,
    *,
    options: EngineOptions | None = None,
    claims: Sequence[str] = (),
    log_models: bool = False,
    system_metrics: bool = False,
) -> SuiteRun:
    """Runs what is missing of a suite, and writes its report where it would change.

    Args:
        suite: The suite.
        typed: What stands behind ``ggn run`` to get it.
        store: Results on disk; the report goes to reports/ beside them.
        console: Where progress is shown.
        again: Which finished trials to run again.
        options: Where trials run.
        claims: That the suite is run for.
        log_models: Whether trained models are recorded.
        system_metrics: Whether the machine's load is recorded.
    """
    with store.turn():
        tracker = Tracker(suite, claims, system_metrics=system_metrics)
    reporter = Reporter(suite.size(), console)
    runner = Runner(suite, store, tracker, reporter, again, options, log_models)
    found = study(suite)
    runner.run(found.walk)
    where = Path.cwd() / "reports" / suite.suite, tracker.uri, typed
    page = found.fresh_report(*where) or found.write_report(*where)
    warnings = []
    if runner.waiting:
        warnings.append(
            f"{len(runner.waiting)} results are on disk only: ggn sync records them when the server is back"
        )
    else:
        try:
            tracker.attach(page.parent)
        except TrackingError as error:
            warnings.append(f"{error} ({tracker.uri}); the report is on disk only")
    if reporter.failures:
        warnings.append(f"{counted(reporter.failures, 'trial')} failed: ggn run {typed} --again failed")
    if runner.without_model:
        warnings.append(
            f"{counted(len(runner.without_model), 'trial')} ended without a model being kept: "
            f"ggn run {typed} --log-models --again models runs them anew"
        )
    return SuiteRun(found, page, reporter.total, reporter.reused, reporter.failures, warnings)
