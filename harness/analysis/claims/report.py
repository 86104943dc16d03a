"""The page of the paper's claims: for each its sentence, verdict, numbers, figure, and the runs behind it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...claims.check import CheckedClaim, CheckedPart
from ...claims.verdict import Verdict
from ...environment import is_current
from ...trial import TrialResult
from ..page import Form, figure_address, provenance, write_page
from .figures import VERDICT_COLOURS, claim_figure
from .terminal import written

__all__ = ["report_data", "write_report"]

TITLE = "Does Gram-Gauss-Newton do what its paper says?"
SOURCE = "Cai et al., “Gram-Gauss-Newton Method”, arXiv 1905.11675"


def write_report(
    checked: Sequence[CheckedClaim], folder: Path, tracking_uri: str, command: str, form: Form = "html"
) -> Path:
    """Writes ``index.html`` or ``report.md``, and the figures' files, into ``folder``.

    Args:
        checked: The claims with their verdicts.
        folder: Made if it is not there; the suites' own reports are looked for beside it.
        tracking_uri: Where the runs are recorded.
        command: What computed the verdicts.
        form: The page's format.

    Returns:
        The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for item in checked:
        drawn = claim_figure(item, folder)
        if drawn is not None:
            figures[item.claim.claim] = (drawn[0], figure_address(drawn[1], form))
    return write_page(
        "claims",
        folder,
        form,
        **report_data(checked, folder.parent),
        figures=figures,
        tracking_uri=tracking_uri,
        command=command,
        colours={str(verdict): colour for verdict, colour in VERDICT_COLOURS.items()},
    )


def report_data(checked: Sequence[CheckedClaim], reports: Path) -> dict[str, Any]:
    """Everything the page says, figures aside."""
    results = _results(checked)
    return {
        "suite": {"suite": TITLE, "question": _summary(checked)},
        "source": SOURCE,
        "items": [_item(item, reports) for item in checked],
        "notes": _notes(checked),
        "typed": "",
        **provenance(results),
    }


def _item(item: CheckedClaim, reports: Path) -> dict[str, Any]:
    decisive = _decisive(item)
    return {
        "claim": item.claim,
        "verdict": str(item.verdict),
        "reason": item.reason,
        "fingerprint": item.fingerprint,
        "holds": _holds(item),
        "decisive": written(decisive.estimate),
        "decisive_of": decisive.part.part,
        "parts": [
            {
                "part": checked.part,
                "number": written(checked.estimate),
                "samples": checked.estimate.samples,
                "verdict": str(checked.verdict.verdict),
                "reason": checked.verdict.reason,
            }
            for checked in item.parts
        ],
        "suites": [
            {
                "name": name,
                "trials": len(found.results()),
                "page": f"../{name}/index.html" if (reports / name / "index.html").is_file() else None,
                "ids": [result.trial.id for result in found.results()],
            }
            for name, found in item.studies.items()
        ],
    }


def _holds(item: CheckedClaim) -> str:
    deciding = [checked.verdict.verdict for checked in item.parts if checked.part.decides]
    return f"{deciding.count(Verdict.REPRODUCED)} of {len(deciding)}"


def _decisive(item: CheckedClaim) -> CheckedPart:
    """What keeps the verdict from being better; the first that decides, where all hold."""
    deciding = [checked for checked in item.parts if checked.part.decides]
    worst = (Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE, Verdict.NOT_ATTEMPTED, Verdict.REPRODUCED)
    return min(deciding, key=lambda checked: worst.index(checked.verdict.verdict))


def _summary(checked: Sequence[CheckedClaim]) -> str:
    counts = {verdict: sum(item.verdict is verdict for item in checked) for verdict in Verdict}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"Of {len(checked)} claims: {told}."


def _notes(checked: Sequence[CheckedClaim]) -> list[str]:
    results = _results(checked)
    outdated = sum(not is_current(result.environment) for result in results)
    if not outdated:
        return []
    count = "All" if outdated == len(results) else f"{outdated} of"
    return [f"{count} {len(results)} trials were computed by other code or another torch than is installed here."]


def _results(checked: Sequence[CheckedClaim]) -> list[TrialResult]:
    return list({result.trial.id: result for item in checked for result in item.results()}.values())
