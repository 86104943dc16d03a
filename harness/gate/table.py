"""The gate's result for a terminal, for a pull request's comment, and as JSON."""

import json
import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .gate import Report
from .intervals import Effect
from .recorded import Recorded
from .verdict import Finding, Status, Verdict

__all__ = ["as_json", "as_markdown", "print_report"]

# What needs a look comes first.
ORDER = [
    Status.SLOWER,
    Status.FAILED,
    Status.NOISY,
    Status.UNDECIDED,
    Status.BROKEN,
    Status.FASTER,
    Status.REMOVED,
    Status.NEW,
    Status.SKIPPED,
    Status.UNCHANGED,
]
STYLES = {Status.SLOWER: "bold red", Status.FAILED: "bold red", Status.FASTER: "green", Status.UNCHANGED: "dim"}
HEADER = ("benchmark", "base", "head", "head / base [95%]", "A/A [95%]", "verdict")


def print_report(report: Report, recorded: Recorded, console: Console) -> None:
    """Prints all findings, the notes, and the verdict last."""
    table = Table(title=_title(report), title_justify="left")
    for position, name in enumerate(HEADER):
        table.add_column(name, justify="right" if 0 < position < 5 else "left", overflow="fold")
    for finding in _sorted(report.findings):
        table.add_row(*_row(finding), style=STYLES.get(finding.status, ""))
    console.print(table)
    for line in [*_reasons(report.findings), *(f"note: {note}" for note in report.notes), *_links(report, recorded)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    style = "bold red" if report.verdict is Verdict.REGRESSION else "bold"
    console.print(f"{report.verdict}: {_summary(report.findings)}", style=style, markup=False, highlight=False)


def as_markdown(report: Report, recorded: Recorded) -> str:
    """A comment: the verdict, what needs a look, and the rest folded away."""
    notable = [finding for finding in _sorted(report.findings) if finding.status is not Status.UNCHANGED]
    unchanged = [finding for finding in _sorted(report.findings) if finding.status is Status.UNCHANGED]
    lines = [f"### Performance: {report.verdict}", "", f"{_title(report)}: {_summary(report.findings)}.", ""]
    if notable:
        lines += [*_markdown_table(notable), ""]
    if unchanged:
        lines += [f"<details><summary>{len(unchanged)} unchanged</summary>", "", *_markdown_table(unchanged), ""]
        lines += ["</details>", ""]
    for reason in _reasons(report.findings):
        name, _, text = reason.partition(": ")
        summary = f"<details><summary><code>{_escaped(name)}</code></summary>"
        lines += [summary, "", "```", text, "```", "</details>", ""]
    lines += [f"- {_escaped(note)}" for note in [*report.notes, *_links(report, recorded)]]
    machine = report.environment
    lines += [
        "",
        f"Medians of pairs in random order, {report.settings.threads} thread(s), {machine['cpu']}, "
        f"{machine['cores']} cores, torch {machine['torch']}.",
        "",
    ]
    return "\n".join(lines)


def as_json(report: Report, recorded: Recorded) -> str:
    """Everything, raw samples included: the verdict can be computed again from it."""
    whole = report.model_dump(mode="json")
    whole["exit_code"] = report.verdict.exit_code
    whole["findings"] = [_plain(finding) for finding in _sorted(report.findings)]
    whole["recorded"] = {commit: [entry._asdict() for entry in suites] for commit, suites in recorded.items()}
    return json.dumps(whole, indent=2, allow_nan=False)


def _plain(finding: Finding) -> dict[str, object]:
    dumped = finding.model_dump(mode="json", exclude={"settled"})
    for key in ("ratio", "noise"):
        value: Effect | None = getattr(finding, key)
        if value is not None:
            dumped[key] = {k: None if math.isnan(v) else v for k, v in value._asdict().items()}
    if finding.limit is not None and math.isinf(finding.limit):
        dumped["limit"] = None
    return dumped


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: ORDER.index(finding.status))


def _title(report: Report) -> str:
    return f"{report.base.name} ({report.base.short}) → {report.head.name} ({report.head.short})"


def _summary(findings: Sequence[Finding]) -> str:
    counts = {status: sum(finding.status is status for finding in findings) for status in ORDER}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _row(finding: Finding) -> tuple[str, ...]:
    return (
        finding.id,
        _quantity(finding.base, finding.unit),
        _quantity(finding.head, finding.unit),
        _effect(finding.ratio),
        _effect(finding.noise),
        str(finding.status),
    )


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit != "s":
        return f"{value:.3g} {unit}" if unit in ("MiB", "epochs") else f"{value:.3g}"
    for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {name}"
    return f"{value * 1e9:.3g} ns"


def _effect(effect: Effect | None) -> str:
    if effect is None:
        return "–"
    if effect.size == 1:
        return f"{effect.ratio:.3f}"
    return f"{effect.ratio:.3f} [{effect.low:.3f}, {effect.high:.3f}]"


def _reasons(findings: Sequence[Finding]) -> list[str]:
    return [f"{finding.id}: {finding.reason}" for finding in _sorted(findings) if finding.reason]


def _links(report: Report, recorded: Recorded) -> list[str]:
    lines = []
    for commit in dict.fromkeys((report.base.hash, report.head.hash)):
        for entry in recorded.get(commit, []):
            resting = f"; claims that rest on them: {', '.join(entry.claims)}" if entry.claims else ""
            lines.append(f"recorded at {commit[:10]}: suite {entry.suite}, {len(entry.runs)} MLflow runs{resting}")
    return lines


def _markdown_table(findings: Sequence[Finding]) -> list[str]:
    lines = [f"| {' | '.join(HEADER)} |", "|---|--:|--:|--:|--:|---|"]
    for finding in findings:
        name, *cells, status = _row(finding)
        shown = f"**{status}**" if finding.status in (Status.SLOWER, Status.FAILED, Status.FASTER) else status
        lines.append(f"| `{name}` | {' | '.join(map(_escaped, cells))} | {shown} |")
    return lines


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
