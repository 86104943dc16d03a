"""The Markdown page of a run."""

import statistics

from harness.analysis.statistics import Interval
from harness.phases import PHASES
from harness.problems.resnets import GROUPS

from .count import least
from .measure import BUSY
from .networks import SHARED, WORKLOADS
from .peers import OURS
from .record import Record, Row
from .statistics import LIMIT, LIMIT_FLOAT64, beside, least_ratio, ratio, rival_ratio, wrong

__all__ = ["markdown", "number"]

QUANTITIES = {"gram": "Gram", "step": "step"}


def markdown(record: Record) -> str:
    """The whole page."""
    parts = ["# Gram and step beside other libraries", _provenance(record), _summary(record)]
    parts += [_workload(record, name, title) for name, title in _measured(record).items()]
    parts += [_parts(record), _exactness(record), NOTES.format(damping=record.facts["damping"], groups=GROUPS)]
    return "\n\n".join(part for part in parts if part) + "\n"


def number(value: float) -> str:
    """Three digits or so, with thousands: 1.12, 11.2, 112, 1,120."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def _provenance(record: Record) -> str:
    facts = record.facts
    commit = f"{str(facts['commit'])[:12]}{', with local changes' if facts['dirty'] else ''}"
    versions = ", ".join(
        f"{record.titles['peers'][peer]} {version or '(not installed)'}" for peer, version in record.versions.items()
    )
    return (
        f"Written by `make peers` on {facts['date']}, commit {commit}: {facts['cpu']}, {facts['cores']} cores, "
        f"{facts['threads']} threads, {facts['memory_gib']} GiB, {facts['system']}, Python {facts['python']}, "
        f"torch {facts['torch']}, float32.\n\nVersions: {versions}.{_busy(record)}"
    )


def _busy(record: Record) -> str:
    """A warning where the machine was not left alone: short steps on several threads suffer far more than long ones."""
    load, cores = float(record.facts["load"] or 0), record.facts["cores"]
    if load < BUSY:
        return ""
    return (
        f"\n\n**Other programs were using the machine, load {load:.1f} on {cores} cores when the run began: ratios are "
        "rough.**"
    )


def _measured(record: Record) -> dict[str, str]:
    present = {row.workload for row in record.rows}
    return {name: title for name, title in record.titles["workloads"].items() if name in present}


def _summary(record: Record) -> str:
    workloads = {name: title for name, title in _measured(record).items() if name in SHARED}
    if not workloads:
        return ""
    lines = [
        "## Time, × SGD",
        "",
        "Gram matrix / step, each as a ratio to one step of `torch.optim.SGD` (somax: of JAX's SGD) on the same "
        "network and batch in the same process: medians of paired ratios. – : not offered.",
        "",
        "![Time of Gram matrix and step as a ratio to SGD](peers.png)",
        "",
        _cells("", *workloads.values()),
        _rule(len(workloads)),
    ]
    for rival in ("adam", "adam-fused"):
        ratios = [rival_ratio(record, workload, rival) for workload in workloads]
        lines.append(_cells(record.titles["rivals"][rival], *(number(r.median) if r else "" for r in ratios)))
    for peer in record.versions:
        cells = [
            " / ".join(_short(_row(record, peer, workload, quantity)) for quantity in QUANTITIES)
            for workload in workloads
        ]
        lines.append(_cells(record.titles["peers"][peer], *cells))
    return "\n".join(lines)


def _workload(record: Record, name: str, title: str) -> str:
    heads = ("", "", "ms", "× SGD", "of minima", "× Adam", "× fused Adam", "relative error", "peak MiB", "pairs")
    lines = [f"## {title}", "", _cells(*heads), _rule(len(heads) - 1)]
    for rival, rival_title in record.titles["rivals"].items():
        memory, row = _row(record, rival, name, "step"), beside(record, name, rival)
        peak = f"{memory.peak_mib:,.0f}" if memory and memory.peak_mib is not None else ""
        interval = rival_ratio(record, name, rival)
        shown, pairs = ("1", "") if rival == "sgd" else (_interval(interval), str(interval.size) if interval else "")
        lines.append(_cells(rival_title, "step", _milliseconds(row, rival), shown, "", "", "", "", peak, pairs))
    for peer in record.versions:
        for quantity, quantity_title in QUANTITIES.items():
            row = _row(record, peer, name, quantity)
            if row is not None:
                lines.append(_cells(record.titles["peers"][peer], quantity_title, *_measurements(row)))
    return "\n".join(lines)


def _parts(record: Record) -> str:
    """Of our step on every workload, beside the least that the count of operations allows."""
    rows = {name: _row(record, OURS, name, "phases") for name in _measured(record)}
    timed = {name: row for name, row in rows.items() if row is not None and row.seconds}
    if not timed:
        return ""
    heads = ("ms", "SGD's step", *PHASES, "least by count, over SGD")
    lines = [
        f"## The parts of the step of {record.titles['peers'][OURS]}",
        "",
        "In a process of its own. How multiply-adds are counted is told below.",
        "",
        _cells(*heads),
        _rule(len(heads) - 1),
    ]
    for name, row in timed.items():
        parts = [_milliseconds(row, phase) for phase in PHASES]
        count = number(least(WORKLOADS[name])) if name in WORKLOADS else ""
        sgd = _milliseconds(beside(record, name, "sgd"), "sgd")
        lines.append(_cells(record.titles["workloads"][name], sgd, *parts, count))
    return "\n".join(lines)


def _measurements(row: Row) -> list[str]:
    if not row.seconds:
        return [_plain(row.reason), "", "", "", "", "", "", ""]
    ratios = [ratio(row, rival) for rival in ("sgd", "adam", "adam-fused")]
    pairs = ratios[0].size if ratios[0] else 0
    peak = _plain(row.reason) if row.peak_mib is None else f"{row.peak_mib:,.0f}"
    shown = [_interval(r) for r in ratios]
    least = least_ratio(row)
    shown.insert(1, number(least) if least is not None else "")
    return [_milliseconds(row, "peer"), *shown, _error(row), peak, str(pairs)]


def _milliseconds(row: Row | None, who: str) -> str:
    return number(1e3 * statistics.median(row.seconds[who])) if row else ""


def _exactness(record: Record) -> str:
    if not record.exactness:
        return ""
    peers = list(record.versions)
    lines = [
        "## Exactness",
        "",
        "Relative error of the Gram matrix against the dense Jacobian in float64, on small networks; of the step (†) "
        f"where a library offers no Gram matrix. **Bold**: silently wrong (above {LIMIT:g}; above {LIMIT_FLOAT64:g} "
        "where float64 was asked for). Errors that a library raises are told below the table.",
        "",
        _cells("", *(record.titles["peers"][peer] for peer in peers)),
        _rule(len(peers)),
    ]
    messages: list[str] = []
    for trap in dict.fromkeys(row.workload for row in record.exactness):
        rows = {row.peer: row for row in record.exactness if row.workload == trap}
        lines.append(_cells(trap, *(_exactness_cell(rows[peer]) if peer in rows else "" for peer in peers)))
        raised = [rows[peer] for peer in peers if peer in rows and rows[peer].reason is not None]
        messages += [f"- {trap}, {record.titles['peers'][row.peer]}: {_plain(row.reason)}" for row in raised]
    return "\n".join([*lines, "", *messages])


def _exactness_cell(row: Row) -> str:
    if row.error is None:
        return "error" if row.offered else "–"
    return _error(row) + ("†" if row.quantity == "step" else "")


NOTES = """\
## How it is measured

- Each case runs in a process of its own: the peer, SGD, Adam and fused Adam take turns in random order, and each timed
  call follows an untimed one of its own, unless it lasts more than a second. Beside a much longer call, short ones are
  timed up to 20 times a round and their median counts. A ratio is the median over the rounds of the peer's seconds over
  the rival's in the same round [95% bootstrap interval]; "of minima" is the peer's least seconds over SGD's least.
- Every step uses the same damping, {damping:g} on the diagonal of the Gram matrix, after each library's own scale:
  torch-levenberg-marquardt divides by the batch size, somax by the number of residuals.
- The error of a Gram matrix is its relative distance from the dense Jacobian's in float64, in the Frobenius norm; that
  of a step is of the change of all parameters as it arrives in them.
- Peak memory is what two calls need above the process with its libraries, network and batch, in a process of their own.
- torch.func and nngeometry offer no step, torch-levenberg-marquardt and somax no Gram matrix. TorchJD's step is its
  Gram matrix, a Cholesky solve, one backward pass with the solution and SGD's update. somax' EGN takes one output a
  sample: it is given all outputs as one row. Its step and its SGD are compiled by XLA; compilation is not counted.
- Counted are multiply-adds, with N = n o rows for n samples of o outputs. GGN: the forward pass; o passes to the
  layers' outputs; of a linear layer, half of its two Grams and one weight gradient; of any other, o weight gradients,
  half of their Gram, and their product with the solution; N³/6 for the factor. SGD: the forward pass, one pass to the
  layers' outputs, one weight gradient.
- The ResNet is He et al.'s for CIFAR (option A: shortcuts without parameters), with GroupNorm of {groups} groups."""


def _row(record: Record, peer: str, workload: str, quantity: str) -> Row | None:
    for row in record.rows:
        if (row.peer, row.workload, row.quantity) == (peer, workload, quantity):
            return row
    return None


def _short(row: Row | None) -> str:
    if row is None or not row.offered:
        return "–"
    interval = ratio(row)
    return number(interval.median) if interval else "failed"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{number(interval.median)} [{number(interval.low)}, {number(interval.high)}]"


def _error(row: Row) -> str:
    if row.error is None:
        return ""
    text = f"{row.error:.2g}" if row.error > 1e-3 else f"{row.error:.0e}"
    return f"**{text}**" if wrong(row) else text


def _plain(reason: str | None) -> str:
    """A library's words inside a table: no cell ends early, and no message fills the page."""
    text = (reason or "").replace("|", "/")
    return text if len(text) <= 240 else text[:239] + "…"


def _cells(*values: str) -> str:
    return "| " + " | ".join(values) + " |"


def _rule(columns: int) -> str:
    return "|---|" + "---:|" * columns
