"""Records in MLflow what is on disk and not there yet, as after a server's absence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from .errors import UserError
from .store import Store
from .studies import study
from .suite import Suite
from .suite_file import KINDS
from .tracking import Tracker
from .trial import AnyTrial, TrialResult

__all__ = ["Remembered", "Synced", "remembered", "sync"]


class Remembered(NamedTuple):
    """A suite as it was run last, and the claims that it was run for."""

    suite: Suite
    claims: tuple[str, ...]


class Synced(NamedTuple):
    """How many of a suite's trials were recorded now, were there already, and have no result on disk."""

    recorded: int
    held: int
    missing: int


def remembered(store: Store) -> list[Remembered]:
    """The suites that were run in the store's folder, each as it was run last.

    Raises:
        UserError: One was run by another version of the project.
    """
    suites = []
    for path in sorted(store.suites.glob("*.json")):
        try:
            raw = json.loads(path.read_bytes())
            claims = raw.pop("claims", [])
            suites.append(Remembered(KINDS[raw["measure"]].model_validate(raw), tuple(map(str, claims))))
        except (ValidationError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: written by another version; name the suite's file instead") from None
    return suites


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

    def look(trial: AnyTrial, role: str) -> TrialResult | None:
        nonlocal held
        result = store.load(trial.id)
        if result is not None and tracker.holds(result):
            held += 1
            if tracker.has_model(result):  # a run may have been killed before it could clean up
                store.model_path(trial.id).unlink(missing_ok=True)
        elif result is not None:
            waiting[trial.id] = (result, role)
        return result

    with store.lock(suite.suite):
        study(suite).walk(look)
        if waiting:
            with _invocation(tracker):
                for result, role in waiting.values():
                    model = store.model_path(result.trial.id)
                    tracker.record(result, role, model if model.exists() else None)
                    model.unlink(missing_ok=True)
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
