"""Reference results: the samples behind verdicts, in a folder from which anyone recomputes them.

``manifest.json`` holds the verdicts as published, the registered claims, machine and commit; ``trials.jsonl.gz`` one
trial a line, as JSON.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..environment import Facts, environment
from ..errors import UserError
from ..frozen import Frozen
from ..store import write_atomically
from ..sweep import Obtain
from ..trial import AnyTrial, TrialResult
from .check import CheckedClaim
from .registry import Registration

__all__ = ["Manifest", "Saved", "save"]


class Manifest(Frozen):
    """What stands beside the samples.

    Attributes:
        full: Whether the long versions of the suites were run.
        made: When, in ISO 8601, UTC.
        environment: Of the process that saved; each trial has its own.
        registered: The claims as they stood when their runs began.
        verdicts: As published.
    """

    full: bool
    made: str
    environment: Facts
    registered: list[Registration]
    verdicts: list[dict[str, Any]]


class Saved:
    """Reference results of a folder.

    Args:
        folder: Where ``save`` wrote them.

    Raises:
        UserError: There are none, or they are damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
            with gzip.open(folder / "trials.jsonl.gz", "rt", encoding="utf-8") as file:
                results = [TrialResult.model_validate_json(line) for line in file]
        except FileNotFoundError as error:
            raise UserError(f"{folder}: holds no results of claims: {Path(error.filename).name} is missing") from None
        except (OSError, EOFError, ValidationError, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{folder}: the results are damaged, or of another version of ggn: {first}") from None
        self.results = {result.trial.id: result for result in results}

    def obtain(self, trial: AnyTrial, role: str) -> TrialResult | None:
        """A saved result; serves ``check``."""
        return self.results.get(trial.id)

    def differences(self, checked: Sequence[CheckedClaim]) -> list[str]:
        """Where the verdicts recomputed are not those published."""
        published = {record["claim"]: record["verdict"] for record in self.manifest.verdicts}
        return [
            f"{item.claim.claim}: recomputed {item.verdict}, published {published[item.claim.claim]}"
            for item in checked
            if published.get(item.claim.claim, item.verdict) != item.verdict
        ]


def save(
    folder: Path,
    full: bool,
    made: str,
    checked: Sequence[CheckedClaim],
    registered: Sequence[Registration],
    obtain: Obtain,
) -> None:
    """Writes what the verdicts rest on into ``folder``, trials of the searches for settings included."""
    results: dict[str, TrialResult] = {}

    def remember(trial: AnyTrial, role: str) -> TrialResult | None:
        result = obtain(trial, role)
        if result is not None:
            results[trial.id] = result
        return result

    for found in {name: found for item in checked for name, found in item.studies.items()}.values():
        found.walk(remember)
    manifest = Manifest(
        full=full,
        made=made,
        environment=environment(),
        registered=[entry for entry in registered if entry.full == full],
        verdicts=[item.record() for item in checked],
    )
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(results[key].model_dump_json() + "\n" for key in sorted(results))
    # Without a time stamp, so that equal results make equal files.
    (folder / "trials.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    write_atomically(folder / "manifest.json", json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
