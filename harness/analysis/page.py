"""Writes reports as HTML pages or Markdown, and says what a reader must know of the results behind them."""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..store import write_atomically
from ..suite import Suite
from ..sweep import Costs
from ..trial import DataRecord, TrialResult
from . import labels
from .formats import interval, number, ratio
from .plain import plain

__all__ = [
    "Form", "figure_address", "provenance", "provenance_notes", "report_record", "trials", "with_trials", "write_page",
]  # fmt: skip

Form = Literal["html", "md"]

FILES: dict[Form, str] = {"html": "index.html", "md": "report.md"}


class _Verbatim(str):
    """Text that stands in a code block, where nothing is markup."""


def write_page(kind: str, folder: Path, form: Form, **content: Any) -> Path:
    """Fills a template of this package into ``folder``/index.html or report.md, whole or not at all.

    Args:
        kind: "training", "stepcost", "theory" or "claims".
        folder: Where to.
        form: The page's format; text of suites and errors is no markup in either.
        **content: What the template names.

    Returns:
        The page's path.
    """
    environment = Environment(
        loader=PackageLoader("harness.analysis"), autoescape=form == "html", undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_as_markdown if form == "md" else None,
    )  # fmt: skip
    environment.filters |= {
        "interval": interval,
        "ratio": ratio,
        "number": number,
        "settings": labels.settings,
        "spelled": labels.spelled,
        "verbatim": _Verbatim,
    }
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path = folder / FILES[form]
    write_atomically(path, environment.get_template(f"{kind}.{form}.j2").render(**content, made=made))
    return path


def figure_address(svg: Path, form: Form) -> str:
    """Where a page finds a figure: in itself if it is HTML, beside itself if it is Markdown."""
    if form == "md":
        return svg.name
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def _as_markdown(value: Any) -> Any:
    """Text that Markdown shows as it is, in one line, also inside a table."""
    if not isinstance(value, str) or isinstance(value, _Verbatim):
        return value
    escaped = re.sub(r"[\\|*`<&$]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", value)
    return " ".join(escaped.split())


def provenance(results: Sequence[TrialResult]) -> dict[str, Any]:
    """Where results come from: data sets and environments, each once."""
    return {
        "data": _data(results),
        "environments": _distinct([result.environment for result in results if result.environment]),
    }


def trials(results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """Which trials they are and how each ended."""
    return [
        {
            "id": result.trial.id,
            "seed": result.trial.seed,
            "outcome": str(result.outcome),
            "reason": result.reason,
        }
        for result in results
    ]


def with_trials(rows: Sequence[dict[str, Any]], found: Sequence[Costs]) -> list[dict[str, Any]]:
    """The rows of a suite without a search, with the trials behind each."""
    return [row | {"trials": trials(costs.results)} for row, costs in zip(rows, found, strict=True)]


def report_record(suite: Suite, notes: Sequence[str], data: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """What a report says, as plain data: its sections between what was asked and where the results come from."""
    asked = {"question": suite.question, "notes": notes}
    return plain(asked | sections | {key: data[key] for key in ("data", "environments")})  # type: ignore[no-any-return]


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
