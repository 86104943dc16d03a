"""Runs a suite: every trial that is not finished yet, each result stored, recorded and reported."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .engine import Engine
from .progress import Reporter
from .store import Store
from .suite import Suite
from .sweep import Contender, check, sweep
from .tracking import Tracker, TrackingError
from .trial import Outcome, TrainingTrial, TrialResult

__all__ = ["Runner", "recorded"]

RETRY_SECONDS = 60.0  # how long to leave a tracking server alone that has failed


class Runner:
    """Obtains the results of a suite's trials, from what is recorded or by running them.

    Args:
        suite: The suite.
        store: Results on disk.
        tracker: Results in MLflow.
        reporter: Told of every trial.
        retry: Run again what failed (out of memory, timeout, crash); what was killed or skipped always is.

    Attributes:
        waiting: Results that are on disk only, because the tracking server failed.
    """

    def __init__(self, suite: Suite, store: Store, tracker: Tracker, reporter: Reporter, retry: bool = False):
        self.suite = suite
        self.store = store
        self.tracker = tracker
        self.reporter = reporter
        self.retry = retry
        self.waiting = 0
        self._engine = Engine(store, suite.limits)
        self._leave_alone_until = 0.0

    def run(self) -> list[Contender]:
        """Runs what is missing.

        Raises:
            UserError: The suite does not fit its data, or is being run in this folder already.
        """
        check(self.suite)
        with self.store.lock(self.suite.suite), self._tracked(), self.reporter:
            return sweep(self.suite, self._obtain)

    def _obtain(self, trial: TrainingTrial, role: str) -> TrialResult:
        known = _load(trial, self.store, self.tracker)
        if known is not None and not self._runs_again(known):
            if self.tracker.outcome(trial.id) is not known.outcome:
                self._record(known, role)
            self.reporter.end(trial, role, known, reused=True)
            return known
        self.reporter.begin(trial, role)
        result = self._engine.run(trial)
        if not (result.outcome is Outcome.SKIPPED is self.tracker.outcome(trial.id)):  # one record of a skip is enough
            self._record(result, role)
        self.reporter.end(trial, role, result, reused=False)
        return result

    def _runs_again(self, known: TrialResult) -> bool:
        return known.outcome in (Outcome.KILLED, Outcome.SKIPPED) or (self.retry and not known.outcome.is_answer)

    def _record(self, result: TrialResult, role: str) -> None:
        try:
            if time.monotonic() < self._leave_alone_until:
                raise TrackingError("the server failed a moment ago")
            self.tracker.record(result, role)
        except TrackingError as error:
            if self.waiting == 0:
                self.reporter.warn(f"tracking server {self.tracker.uri}: {error}; results wait on disk")
            self.waiting += 1
            self._leave_alone_until = max(self._leave_alone_until, time.monotonic() + RETRY_SECONDS)

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """The invocation's run; a server that fails to close it does not undo the trials."""
        self.tracker.begin()
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            try:
                self.tracker.end(status)
            except TrackingError as error:
                self.reporter.warn(f"tracking server {self.tracker.uri}: {error}; the invocation's run stays open")


def recorded(suite: Suite, store: Store, tracker: Tracker) -> list[Contender]:
    """What is recorded of a suite, with nothing run; contenders hold what there is."""
    return sweep(suite, lambda trial, role: _load(trial, store, tracker))


def _load(trial: TrainingTrial, store: Store, tracker: Tracker) -> TrialResult | None:
    result = store.load(trial.id)
    if result is None:
        result = tracker.load(trial.id)
        if result is not None:
            store.save(result)
    return result
