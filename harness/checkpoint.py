"""A training under way, kept on disk, so that another process can go on with it where this one is killed."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .environment import Facts
from .store import replacing

__all__ = ["Checkpoint"]

EVERY_SECONDS = 60.0  # most trainings end before the first

# With another code, torch or machine, the rest of the training would not be what this one's would have been.
DECISIVE = ("code", "torch", "cpu", "gpu")


class Checkpoint:
    """One file, replaced at the end of an epoch whenever it has become old.

    Args:
        path: The file.
        facts: Of this process's environment: what another environment has written is of no use here.
    """

    def __init__(self, path: Path, facts: Facts):
        self._path = path
        self._facts = {key: str(facts.get(key)) for key in DECISIVE}  # torch's version is a class of its own
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was kept last, or None: there is none, it is damaged, or it comes from elsewhere."""
        try:
            kept = torch.load(self._path, map_location="cpu", weights_only=True)
            return dict(kept["state"]) if kept["facts"] == self._facts else None
        except Exception:  # rubbish in the file may raise anything, and costs a start from the beginning
            return None

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keeps the state if the last one is old by now.

        One that cannot be written, as on a full disk, costs the way back and not the training.
        """
        if time.monotonic() - self._written < EVERY_SECONDS:
            return
        try:
            with replacing(self._path) as file:
                torch.save({"facts": self._facts, "state": state()}, file)
        except Exception as error:
            print(f"warning: {self._path}: the training under way cannot be kept: {error}", file=sys.stderr)
        self._written = time.monotonic()
