"""Writes self-contained HTML pages, and says what a reader must know of the results behind them."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..store import write_atomically
from ..trial import DataRecord, TrialResult
from . import labels
from .formats import interval, number, ratio

__all__ = ["embedded", "provenance", "provenance_notes", "write_page"]


def write_page(template: str, folder: Path, **content: Any) -> Path:
    """Fills a template of this package into ``folder``/index.html, whole or not at all.

    Returns:
        The page's path.
    """
    environment = Environment(
        loader=PackageLoader("harness.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"interval": interval, "ratio": ratio, "number": number, "settings": labels.settings}
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path = folder / "index.html"
    write_atomically(path, environment.get_template(template).render(**content, made=made))
    return path


def embedded(svg: Path) -> str:
    """A figure as the address of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def provenance(results: Sequence[TrialResult]) -> dict[str, Any]:
    """Where results come from: data sets and environments, each once."""
    return {
        "data": _data(results),
        "environments": _distinct([result.environment for result in results if result.environment]),
    }


def provenance_notes(results: Sequence[TrialResult], expected: int) -> list[str]:
    """What is missing, and what does not belong together."""
    notes = []
    if len(results) < expected:
        notes.append(f"Incomplete: {len(results)} of {expected} evaluation trials are recorded.")
    # The commit may differ where nothing that bears on a result does: "code" is the digest of what does.
    alike = [{k: v for k, v in result.environment.items() if k not in ("commit", "dirty")} for result in results]
    environments = len(_distinct([record for record in alike if record]))
    if environments > 1:
        notes.append(
            f"The trials come from {environments} different environments (machine, software or code, listed below): "
            "compare seconds with care."
        )
    return notes


def _data(results: Sequence[TrialResult]) -> list[DataRecord]:
    """The data sets met, each once: the digest of drawn data differs from seed to seed."""
    return list({r.data.name + r.data.source + r.data.target: r.data for r in results if r.data is not None}.values())


def _distinct(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({tuple(record.items()): record for record in records}.values())
