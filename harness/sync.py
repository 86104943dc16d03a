"""Records in MLflow what is on disk and not there yet, as after a server's absence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .store import Store
from .suite import Suite
from .sweep import sweep
from .tracking import Tracker
from .trial import TrainingTrial, TrialResult

__all__ = ["Synced", "sync"]


class Synced(NamedTuple):
    """How many of a suite's trials were recorded now, were there already, and have no result on disk."""

    recorded: int
    held: int
    missing: int


def sync(suite: Suite, store: Store, tracker: Tracker, report: Path) -> Synced:
    """Records every result of the suite on disk that the tracking store does not hold.

    Args:
        suite: Walked through, since a trial's role depends on it.
        store: Results on disk.
        tracker: Results in MLflow.
        report: The suite's report, kept with what is recorded if it is there.

    Raises:
        TrackingError: The server refused or did not answer; what was recorded before stays recorded.
        UserError: The suite is being run in this folder.
    """
    waiting: dict[str, tuple[TrialResult, str]] = {}
    held = 0

    def look(trial: TrainingTrial, role: str) -> TrialResult | None:
        nonlocal held
        result = store.load(trial.id)
        if result is not None and tracker.holds(result):
            held += 1
        elif result is not None:
            waiting[trial.id] = (result, role)
        return result

    with store.lock(suite.suite):
        sweep(suite, look)
        if waiting:
            with _invocation(tracker):
                for result, role in waiting.values():
                    tracker.record(result, role)
                if report.is_dir():
                    tracker.attach(report)
    return Synced(len(waiting), held, suite.size() - held - len(waiting))


@contextmanager
def _invocation(tracker: Tracker) -> Iterator[None]:
    """The run that the recorded trials are children of, closed whatever happens."""
    status = "FAILED"
    try:
        tracker.begin()
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)
