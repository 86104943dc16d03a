"""Recomputes verdicts from recorded samples; trains nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..studies import Study, study
from ..sweep import Obtain
from ..trial import TrialResult
from .claim import Claim, Part
from .claim_file import fingerprint, suites_of
from .estimands import Estimate
from .registry import Registration, trouble
from .verdict import PartVerdict, Verdict, combined, judge

__all__ = ["CheckedClaim", "CheckedPart", "check"]


@dataclass(frozen=True)
class CheckedPart:
    """A part of a claim, with its number and verdict."""

    part: Part
    estimate: Estimate
    verdict: PartVerdict


@dataclass(frozen=True)
class CheckedClaim:
    """A claim with its verdict and all that it rests on.

    Attributes:
        claim: The claim.
        full: Whether the long version of its suites measured it.
        fingerprint: Of the claim and its suites.
        verdict: The verdict.
        reason: Why, in a sentence.
        parts: Its measurements.
        studies: Suite → what was found of it.
    """

    claim: Claim
    full: bool
    fingerprint: str
    verdict: Verdict
    reason: str
    parts: list[CheckedPart]
    studies: dict[str, Study]

    def results(self) -> list[TrialResult]:
        """The evaluation trials behind it, each once."""
        return list({r.trial.id: r for found in self.studies.values() for r in found.results()}.values())

    def record(self) -> dict[str, Any]:
        """The verdict and its numbers as plain data."""
        return {
            "claim": self.claim.claim,
            "statement": self.claim.statement,
            "verdict": str(self.verdict),
            "reason": self.reason,
            "fingerprint": self.fingerprint,
            "full": self.full,
            "trials": len(self.results()),
            "parts": [_record(checked) for checked in self.parts],
        }


def check(
    claims: Sequence[Claim], full: bool, obtain: Obtain, registered: Sequence[Registration]
) -> list[CheckedClaim]:
    """Recomputes the verdicts of claims.

    Args:
        claims: Which.
        full: Whether their suites' long versions are meant.
        obtain: Gives recorded results.
        registered: The claims as they stood when their runs began.
    """
    suites = suites_of(claims, full)
    studies = {name: study(suite) for name, suite in suites.items()}
    for found in studies.values():
        found.walk(obtain)
    return [
        _checked(claim, full, fingerprint(claim, suites), {name: studies[name] for name in claim.suites()}, registered)
        for claim in claims
    ]


def _checked(
    claim: Claim, full: bool, mark: str, studies: dict[str, Study], registered: Sequence[Registration]
) -> CheckedClaim:
    evidence = [result.started for found in studies.values() for result in found.results()]
    objection = trouble(claim.claim, full, mark, registered, evidence) if evidence else ""
    parts = []
    for part in claim.parts:
        estimate = part.estimand.of(studies[part.suite])
        verdict = judge(part, estimate)
        if objection and verdict.verdict is not Verdict.NOT_ATTEMPTED:
            verdict = PartVerdict(Verdict.INCONCLUSIVE, objection)
        parts.append(CheckedPart(part, estimate, verdict))
    deciding = [checked for checked in parts if checked.part.decides]
    whole = combined([checked.verdict.verdict for checked in deciding], proxy=bool(claim.proxy))
    return CheckedClaim(claim, full, mark, whole, objection or _reason(claim, whole, deciding), parts, studies)


def _reason(claim: Claim, verdict: Verdict, deciding: Sequence[CheckedPart]) -> str:
    counts = {v: sum(checked.verdict.verdict is v for checked in deciding) for v in Verdict}
    told = ", ".join(f"{count} {v}" for v, count in counts.items() if count)
    measurements = "measurement" if len(deciding) == 1 else "measurements"
    said = f"of {len(deciding)} deciding {measurements}, {told}"
    if claim.proxy:
        said += ", on a stand-in for the paper's workload"
        if verdict is Verdict.PARTIAL and not counts[Verdict.NOT_REPRODUCED]:
            said += ", which cannot show more than “partial”"
    open_parts = [c for c in deciding if c.verdict.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ATTEMPTED)]
    if verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ATTEMPTED) and open_parts:
        return f"{said} ({open_parts[0].part.part}: {open_parts[0].verdict.reason})"
    return said


def _record(checked: CheckedPart) -> dict[str, Any]:
    estimate = checked.estimate
    return {
        "part": checked.part.part,
        "suite": checked.part.suite,
        "decides": checked.part.decides,
        "estimand": checked.part.estimand.model_dump(mode="json"),
        "value": _plain(estimate.value),
        "low": _plain(estimate.low),
        "high": _plain(estimate.high),
        "cells": [_plain(value) for value in estimate.cells],
        "samples": estimate.samples,
        "accept": str(checked.part.accept),
        "verdict": str(checked.verdict.verdict),
        "reason": checked.verdict.reason,
    }


def _plain(value: float) -> float | str | None:
    """JSON knows no infinity, and null stands for what has not been measured."""
    if value != value:
        return None
    return str(value) if value in (float("inf"), float("-inf")) else value
