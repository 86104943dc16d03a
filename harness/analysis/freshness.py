"""Whether a page on disk still says what would be written now: drawing its figures takes longer than all else."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..store import write_atomically
from ..trial import TrialResult

__all__ = ["digest", "is_fresh", "mark", "runs"]

FOLDER = Path(__file__).parent


def runs(results: Sequence[TrialResult]) -> list[tuple[str, float, str]]:
    """What tells these results from those of any other run of the same trials."""
    return [(result.trial.id, result.started, result.outcome) for result in results]


def digest(*facts: Any) -> str:
    """Of everything a page is made from: ``facts``, plain data, and the code that turns them into a page."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256((text + _code()).encode()).hexdigest()[:16]


def is_fresh(page: Path, made_from: str) -> bool:
    """Whether the page was made from the same."""
    try:
        return page.read_text(encoding="utf-8").endswith(_mark(made_from))
    except (OSError, UnicodeDecodeError):
        return False


def mark(page: Path, made_from: str) -> None:
    """Notes in a page that was just written what it was made from."""
    write_atomically(page, page.read_text(encoding="utf-8") + _mark(made_from))


def _mark(made_from: str) -> str:
    return f"\n<!-- made from {made_from} -->\n"


@cache
def _code() -> str:
    content = hashlib.sha256(f"{version('matplotlib')} {version('seaborn')}".encode())
    for path in sorted(p for p in FOLDER.rglob("*") if p.suffix in (".py", ".j2")):
        content.update(f"{path.relative_to(FOLDER)}\n".encode() + path.read_bytes())
    return content.hexdigest()
