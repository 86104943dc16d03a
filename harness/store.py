"""Results on disk: one file a trial, complete or absent.

The files live under ``.ggn/trials/`` of the working folder, named by the trial's identity. A trial is finished when its
file exists; writing is atomic, so an interruption leaves either a whole result or none. They are the safety copy that
lets results wait for a tracking server, and the cache from which a second run skips what is done. Where trained models
are asked for, one lies beside its result until it is recorded. A training that takes minutes leaves a checkpoint there,
from which the next process goes on if this one is killed. The suites that were run here are in ``.ggn/suites/``,
as they were read.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from .errors import UserError
from .suite import Suite
from .trial import TrialResult

__all__ = ["Store", "replacing", "write_atomically"]

MIN_FREE_MIB = 10  # a result takes some KiB, MLflow's database several times as much


class Store:
    """The results below one working folder.

    Args:
        folder: The working folder; ``.ggn`` is made inside it.
    """

    def __init__(self, folder: Path):
        self.root = folder / ".ggn"
        self.trials = self.root / "trials"
        self.suites = self.root / "suites"
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
            self.suites.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.trials}: cannot be made: {error.strerror}; run from a folder you can write to"
            ) from None

    def path(self, trial_id: str) -> Path:
        return self.trials / f"{trial_id}.json"

    def model_path(self, trial_id: str) -> Path:
        """Where the trained model waits to be recorded; written before the result, and removed once it is recorded."""
        return self.trials / f"{trial_id}.pt"

    def checkpoint_path(self, trial_id: str) -> Path:
        """Where a long training is kept while it is under way."""
        return self.trials / f"{trial_id}.checkpoint"

    def load(self, trial_id: str) -> TrialResult | None:
        """The stored result, or None if there is none that can be read: what is damaged counts as not run."""
        try:
            return TrialResult.model_validate_json(self.path(trial_id).read_bytes())
        except (OSError, ValidationError):
            return None

    def save(self, result: TrialResult) -> None:
        """Keeps the result.

        Raises:
            UserError: The file cannot be written, as on a full disk.
        """
        path = self.path(result.trial.id)
        try:
            write_atomically(path, result.model_dump_json())
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written: {error.strerror}; what was finished before is kept: make "
                "room, then type the same command again"
            ) from None

    def require_space(self) -> None:
        """Sees to it that no trial is run whose result would find no place.

        Raises:
            UserError: The disk is all but full.
        """
        free = shutil.disk_usage(self.root).free // 2**20
        if free < MIN_FREE_MIB:
            raise UserError(
                f"{self.root}: {free} MiB are free on this disk, {MIN_FREE_MIB} are needed; finished trials are kept: "
                "make room, then type the same command again"
            )

    def remember(self, suite: Suite, claims: Sequence[str] = ()) -> None:
        """Keeps the suite, and the claims it is run for, so that ``ggn sync`` can go through its results."""
        text = json.dumps({"claims": list(claims), **suite.model_dump(mode="json")})
        with contextlib.suppress(OSError):  # the results are what matters; their own saving tells of a full disk
            write_atomically(self.suites / f"{suite.suite}.json", text)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other process of this folder is here: MLflow's new database cannot be made by two at once."""
        with (self.root / "tracking.turn").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def lock(self, suite: str) -> Iterator[None]:
        """Keeps a second run of the same suite out of this folder; the lock goes with the process, however it ends.

        Raises:
            UserError: Another process holds it.
        """
        path = self.root / f"{suite}.lock"
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise UserError(
                    f"suite '{suite}' is already being run in {self.root.parent} (process {file.read().strip()}); "
                    "wait for it, or run from another folder"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def write_atomically(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` so that a reader, or a crash, sees the old content or the new one whole."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write what shall be at ``path``, where it appears, whole, once all is written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
