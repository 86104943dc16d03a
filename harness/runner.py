"""Runs a suite: every trial that is not finished yet, each result stored, recorded and reported.

A tracking server may fail at any time: what it does not take waits on disk and in a queue here, is offered again now
and then, and at the end; what is left then, ``ggn sync`` or the next run records.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from functools import cache

from .engine import Engine, EngineOptions, open_engine
from .environment import is_current
from .interrupts import put_off
from .progress import Reporter
from .store import Store
from .suite import Suite
from .sweep import EVALUATION, Obtain, check, data_key
from .tracking import Tracker, TrackingError
from .trial import AnyTrial, Outcome, TrainingTrial, TrialResult

__all__ = ["Again", "Runner", "recorded"]

RETRY_SECONDS = 60.0  # how long to leave a tracking server alone that has failed


class Again(StrEnum):
    """Which finished trials to run again."""

    NONE = "none"
    FAILED = "failed"  # out of memory or time, or crashed
    OUTDATED = "outdated"  # computed by other code or another torch than this
    MODELS = "models"  # evaluations whose trained model was not kept
    ALL = "all"


class Runner:
    """Obtains the results of a suite's trials, from what is recorded or by running them.

    Args:
        suite: The suite.
        store: Results on disk.
        tracker: Results in MLflow.
        reporter: Told of every trial.
        again: Which of the finished trials to run again; what was killed or skipped always is.
        options: Where trials run.
        log_models: Whether the trained models of evaluations are recorded, too.

    Attributes:
        waiting: Results that are on disk only, because the tracking server failed, each with its role.
        without_model: Trials that completed, but whose model was asked for and is not there.
    """

    def __init__(
        self,
        suite: Suite,
        store: Store,
        tracker: Tracker,
        reporter: Reporter,
        again: Again = Again.NONE,
        options: EngineOptions | None = None,
        log_models: bool = False,
    ):
        self.suite = suite
        self.store = store
        self.tracker = tracker
        self.reporter = reporter
        self.again = again
        self.log_models = log_models
        self.waiting: dict[str, tuple[TrialResult, str]] = {}
        self.without_model: set[str] = set()
        self._options = options or EngineOptions()
        self._ran: dict[str, TrialResult] = {}  # in this run, or ahead of being asked for
        self._untagged: list[TrialResult] = []  # recorded before, without the claims that they serve now
        self._leave_alone_until = 0.0
        self._told: set[str] = set()
        self._pixels: dict[str, str] = {}
        self._engine: Engine

    def run(self, walk: Callable[[Obtain], None]) -> None:
        """Runs what is missing of the trials that ``walk`` asks for.

        Raises:
            UserError: The suite does not fit its data, or is being run in this folder already.
        """
        checked = check(self.suite)
        self._pixels = checked.pixels
        for line in checked.notes:
            self.reporter.note(line)
        engine = open_engine(self._options, self.suite, self.store, self.reporter.warn)
        with self.store.lock(self.suite.suite), self._tracked(), self.reporter, engine as self._engine:
            self.store.remember(self.suite, self.tracker.claims)
            if self._engine.is_parallel:
                self._run_ahead(walk)
            walk(self._obtain)
            self._offer()

    def _run_ahead(self, walk: Callable[[Obtain], None]) -> None:
        """Runs what is missing, several trials at once: all that is known to be needed, then what hangs on that."""
        while missing := self._missing(walk):
            self.store.require_space()
            models = {trial.id for trial, role in missing.values() if self._keeps_model(trial, role)}
            for result in self._engine.run_all([trial for trial, _ in missing.values()], models):
                self._ran[result.trial.id] = result
                self._keep(result, missing[result.trial.id][1])
                self.store.require_space()

    def _missing(self, walk: Callable[[Obtain], None]) -> dict[str, tuple[AnyTrial, str]]:
        """The trials, with their roles, that ``walk`` asks for and that have no result that stands."""
        missing: dict[str, tuple[AnyTrial, str]] = {}

        def look(trial: AnyTrial, role: str) -> TrialResult | None:
            known = self._ran.get(trial.id) or self._known(trial, role)
            if known is None:
                missing[trial.id] = (trial, role)
            return known

        walk(look)
        return missing

    def _obtain(self, trial: AnyTrial, role: str) -> TrialResult:
        if trial.id in self._ran:
            if not self._engine.is_parallel:  # asked for twice: the search has chosen the settings as they were given
                self.reporter.end(trial, role, self._ran[trial.id], reused=True)
            return self._ran[trial.id]
        known = self._known(trial, role)
        if known is not None:
            self._settle(known, role)
            self.reporter.end(trial, role, known, reused=True)
            return known
        self.store.require_space()
        self.reporter.begin(trial, role)
        (result,) = self._engine.run_all([trial], {trial.id} if self._keeps_model(trial, role) else ())
        self._ran[trial.id] = result
        self._keep(result, role)
        return result

    def _keeps_model(self, trial: AnyTrial, role: str) -> bool:
        return self.log_models and role == EVALUATION and isinstance(trial, TrainingTrial)

    def _keep(self, result: TrialResult, role: str) -> None:
        self._settle(result, role)
        self.reporter.end(result.trial, role, result, reused=False)

    def _settle(self, result: TrialResult, role: str) -> None:
        """Records a result, or refers to its record."""
        if self._lacks_model(result, role):
            self.without_model.add(result.trial.id)
        if not self.tracker.holds(result):
            self._record(result, role)
            return
        if self.tracker.has_model(result):  # an earlier run may have been killed before it could clean up
            self.store.model_path(result.trial.id).unlink(missing_ok=True)
        if self.tracker.reuse(result, role):
            self._untagged.append(result)
            if time.monotonic() >= self._leave_alone_until:
                self._offer()

    def _lacks_model(self, result: TrialResult, role: str) -> bool:
        """Whether the trained model is asked for and has been lost, or was never kept."""
        wanted = self._keeps_model(result.trial, role) and result.outcome is Outcome.COMPLETED
        return wanted and not (self.store.model_path(result.trial.id).exists() or self.tracker.has_model(result))

    def _known(self, trial: AnyTrial, role: str) -> TrialResult | None:
        """The trial's result, if there is one and it stands."""
        known = self.store.load(trial.id) or self._fetch(trial)
        return None if known is None or self._runs_again(known, role) else known

    def _runs_again(self, known: TrialResult, role: str) -> bool:
        if known.outcome in (Outcome.KILLED, Outcome.SKIPPED) or self._saw_other_pixels(known):
            return True
        match self.again:
            case Again.NONE:
                return False
            case Again.FAILED:
                return not known.outcome.is_answer
            case Again.OUTDATED:
                return not is_current(known.environment)
            case Again.MODELS:
                return self._lacks_model(known, role)
            case Again.ALL:
                return True

    def _saw_other_pixels(self, known: TrialResult) -> bool:
        """Whether an image was replaced by another of its name and size, or is decoded in another way now."""
        now = self._pixels.get(data_key(known.trial.problem)) if self._pixels else None
        return now is not None and known.data is not None and known.data.digest != now

    def _fetch(self, trial: AnyTrial) -> TrialResult | None:
        """What MLflow has of a trial; where the server fails, it counts as not run."""
        if time.monotonic() < self._leave_alone_until:
            return None
        try:
            return _fetched(trial, self.store, self.tracker)
        except TrackingError as error:
            self._failed(error, "trials that only it holds are run anew")
            return None

    def _record(self, result: TrialResult, role: str) -> None:
        self.waiting[result.trial.id] = (result, role)
        if time.monotonic() >= self._leave_alone_until:
            self._offer()

    def _offer(self) -> None:
        """Gives the tracking server what waits for it, until it fails."""
        try:
            while self.waiting:
                trial_id = next(iter(self.waiting))
                model = self.store.model_path(trial_id)
                with self._whole():
                    self.tracker.record(*self.waiting[trial_id], model if model.exists() else None)
                model.unlink(missing_ok=True)
                del self.waiting[trial_id]
            while self._untagged:
                with self._whole():
                    self.tracker.add_claims(self._untagged[-1])
                self._untagged.pop()
        except TrackingError as error:
            lost = "results wait on disk" if self.waiting else "runs recorded before lack the claims they serve now"
            self._failed(error, lost)

    def _failed(self, error: TrackingError, consequence: str) -> None:
        if consequence not in self._told:
            self.reporter.warn(f"{error} ({self.tracker.uri}); {consequence}")
            self._told.add(consequence)
        self._leave_alone_until = time.monotonic() + RETRY_SECONDS

    def _whole(self) -> AbstractContextManager[None]:
        """A database's transactions are not broken off; a server's answer may take long, and is not waited for."""
        return nullcontext() if self.tracker.uri.startswith("http") else put_off()

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """The invocation's run; a server that fails to close it does not undo the trials."""
        status = "FAILED"
        try:
            with self._whole():
                self.tracker.begin()
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            try:
                self.tracker.end(status)
            except TrackingError as error:
                self.reporter.warn(f"{error} ({self.tracker.uri}); the invocation's run stays open")


def recorded(store: Store, connect: Callable[[], Tracker]) -> Obtain:
    """Obtains what is recorded, and runs nothing.

    Args:
        store: Results on disk.
        connect: Gives the tracker; called if something is not on disk, and not before.
    """
    connect = cache(connect)

    def load(trial: AnyTrial, role: str) -> TrialResult | None:
        return store.load(trial.id) or _fetched(trial, store, connect())

    return load


def _fetched(trial: AnyTrial, store: Store, tracker: Tracker) -> TrialResult | None:
    """What MLflow has of a trial, kept on disk from now on."""
    result = tracker.load(trial.id)
    if result is not None:
        store.save(result)
    return result
