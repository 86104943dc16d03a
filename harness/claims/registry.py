"""Remembers which claims, by fingerprint, stood before which run: a tolerance that moves after it is noticed."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..errors import UserError
from ..frozen import Frozen
from ..store import write_atomically

__all__ = ["Registration", "Registry", "trouble"]


class Registration(Frozen):
    """A claim as it stood when a run began.

    Attributes:
        claim: Its name.
        full: Whether its long version was run.
        fingerprint: Of the claim and its suites.
        time: Seconds since the epoch.
    """

    claim: str
    full: bool
    fingerprint: str
    time: float


Registrations = TypeAdapter(list[Registration])


class Registry:
    """The registrations of one working folder, in ``.ggn/claims.json``.

    Args:
        root: The folder ``.ggn``.
    """

    def __init__(self, root: Path):
        self._path = root / "claims.json"

    def read(self) -> list[Registration]:
        """All registrations, in order.

        Raises:
            UserError: The file is damaged.
        """
        try:
            return Registrations.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValidationError):
            raise UserError(
                f"{self._path}: cannot be read; without it no verdict is given. Delete it to register the claims anew"
            ) from None

    def add(self, fingerprints: dict[str, str], full: bool) -> None:
        """Registers what has not been registered as it is now."""
        known = self.read()
        latest = {(entry.claim, entry.full): entry.fingerprint for entry in known}
        new = [
            Registration(claim=claim, full=full, fingerprint=mark, time=time.time())
            for claim, mark in fingerprints.items()
            if latest.get((claim, full)) != mark
        ]
        if new:
            entries = [entry.model_dump(mode="json") for entry in (*known, *new)]
            write_atomically(self._path, json.dumps(entries, indent=1))


def trouble(claim: str, full: bool, mark: str, known: Sequence[Registration], evidence: Sequence[float]) -> str:
    """Why the evidence cannot be held against this claim, or "" if it can.

    Args:
        claim: Its name.
        full: Whether its long version is meant.
        mark: Its fingerprint now.
        known: The registrations, in order.
        evidence: When each trial that the verdict rests on began, in seconds since the epoch.
    """
    entries = [entry for entry in known if entry.claim == claim and entry.full == full]
    if not entries:
        return "the claim was not registered before a run: ggn claims run does it"
    if entries[-1].fingerprint != mark:
        return (
            f"the claim file, or a target in its suites, has changed since the run "
            f"(registered as {entries[-1].fingerprint}, now {mark})"
        )
    if len(entries) > 1 and any(began < entries[-1].time for began in evidence):
        return "the claim was changed after some of its evidence was collected: ggn claims run --again all"
    return ""
