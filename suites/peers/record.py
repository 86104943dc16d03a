"""What is measured, and what came of it. The standard library alone: the JAX environment reads and writes it, too."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .measure import Budget

__all__ = [
    "SOMAX",
    "Case",
    "Record",
    "Row",
    "failure",
    "read",
    "read_case",
    "read_row",
    "write",
    "write_case",
    "write_row",
]


SOMAX = "somax"  # the one peer that does not run on PyTorch


@dataclass(frozen=True)
class Case:
    """One question, answered in a process of its own.

    Attributes:
        peer: Key of the peer, or of a rival where memory is asked for.
        workload: Key of the workload, or title of the trap.
        quantity: "gram", "step", or "phases": the parts of our own step.
        kind: "time" (with the error, except of phases), "memory" or "exactness".
        budget: How long to measure.
        data: File with the workload's arrays and its truth (``truth.save``).
    """

    peer: str
    workload: str
    quantity: str
    kind: str
    budget: Budget
    data: str


@dataclass
class Row:
    """What came of a peer's quantity on a workload.

    Attributes:
        peer: Key of the peer, or of a rival.
        workload: Key of the workload, or title of the trap.
        quantity: "gram", "step" or "phases".
        reason: Why there is no measurement: the library does not offer it, refused, failed, ran out of time or memory.
            None where there is one.
        offered: False where the library offers no such thing.
        seconds: For the peer ("peer") and each rival their seconds, round by round; of phases, for each of them.
        error: Relative error against the float64 truth; None where it was not computed.
        peak_mib: Peak memory above the base, in a process of its own.
    """

    peer: str
    workload: str
    quantity: str
    reason: str | None = None
    offered: bool = True
    seconds: dict[str, list[float]] = field(default_factory=dict)
    error: float | None = None
    peak_mib: float | None = None


@dataclass
class Record:
    """A run of the benchmark.

    Attributes:
        facts: Machine, software, commit, date, settings.
        titles: Key → title, of peers, rivals and workloads, in the order to show them.
        versions: Key of a peer → its version.
        rows: Speed and memory on the workloads.
        exactness: Errors on the traps.
    """

    facts: dict[str, str | int | float | bool | None]
    titles: dict[str, dict[str, str]]
    versions: dict[str, str | None]
    rows: list[Row]
    exactness: list[Row]


def write_case(case: Case, path: Path) -> None:
    path.write_text(json.dumps(asdict(case)))


def read_case(path: Path) -> Case:
    values = json.loads(path.read_text())
    return Case(**(values | {"budget": Budget(**values["budget"])}))


def write_row(row: Row, path: Path) -> None:
    path.write_text(json.dumps(asdict(row)))


def read_row(path: Path) -> Row:
    return Row(**json.loads(path.read_text()))


def failure(error: Exception) -> str:
    """An exception as a reason: its kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def read(path: Path) -> Record:
    """A record as ``write`` left it."""
    values = json.loads(path.read_text())
    values["rows"] = [Row(**row) for row in values["rows"]]
    values["exactness"] = [Row(**row) for row in values["exactness"]]
    return Record(**values)


def write(record: Record, path: Path) -> None:
    """Writes the record, seconds with microseconds; never half a file."""
    values = asdict(record)
    for row in [*values["rows"], *values["exactness"]]:
        row["seconds"] = {name: [round(s, 6) for s in seconds] for name, seconds in row["seconds"].items()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    os.replace(partial, path)
