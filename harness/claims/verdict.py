"""From an estimate to a verdict: five answers, of which "no" is one."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from .claim import Part
from .estimands import Estimate

__all__ = ["PartVerdict", "Verdict", "combined", "judge"]


class Verdict(StrEnum):
    """What the measurements say of a claim."""

    REPRODUCED = "reproduced"
    PARTIAL = "partial"  # some of it holds, or all of it on a proxy
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    NOT_ATTEMPTED = "not attempted"


class PartVerdict(NamedTuple):
    """The verdict of one part, and why."""

    verdict: Verdict
    reason: str


def judge(part: Part, estimate: Estimate) -> PartVerdict:
    """Holds an estimate against the values that speak for the claim.

    Reproduced if the whole interval lies inside them, not reproduced if the whole interval lies outside, inconclusive
    between. What cannot carry a verdict comes first: nothing measured, too little, a noisy machine, and numbers too
    good to be true.
    """
    if estimate.absent:
        return PartVerdict(Verdict.NOT_ATTEMPTED, estimate.absent)
    trouble = estimate.obstacle or _too_little(part, estimate)
    if trouble:
        return PartVerdict(Verdict.INCONCLUSIVE, trouble)
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return PartVerdict(Verdict.INCONCLUSIVE, "the interval is no number")
    plausible = part.plausible
    if plausible is not None and (estimate.high < plausible.low or estimate.low > plausible.high):
        return PartVerdict(
            Verdict.INCONCLUSIVE, f"too good to be true: beyond what is plausible ({plausible}); look for a defect"
        )
    accept = part.accept
    cells = f"; {estimate.range}" if estimate.range else ""
    if accept.low <= estimate.low and estimate.high <= accept.high:
        return PartVerdict(Verdict.REPRODUCED, f"inside {accept}{cells}")
    if estimate.high < accept.low or estimate.low > accept.high:
        return PartVerdict(Verdict.NOT_REPRODUCED, f"outside {accept}{cells}")
    return PartVerdict(Verdict.INCONCLUSIVE, f"the interval crosses the margin ({accept}){cells}")


def _too_little(part: Part, estimate: Estimate) -> str:
    least = part.least
    if len(estimate.widths) < least.sizes:
        return f"underpowered: {len(estimate.widths)} of {least.sizes} widths"
    if estimate.samples < least.samples:
        return f"underpowered: {estimate.samples} of {least.samples} samples"
    if estimate.widths and estimate.widths[-1] < least.span * estimate.widths[0]:
        return f"underpowered: the widths span {estimate.widths[-1] / estimate.widths[0]:g}×, {least.span:g}× is needed"
    return ""


def combined(verdicts: Sequence[Verdict], proxy: bool) -> Verdict:
    """The claim's verdict from those of its deciding parts.

    Where some parts are inconclusive, the claim is as well, unless whatever they turned out to be would change nothing.
    A part that was not attempted keeps the claim from being reproduced as a whole, and so does a proxy.
    """
    attempted = [verdict for verdict in verdicts if verdict is not Verdict.NOT_ATTEMPTED]
    if not attempted:
        return Verdict.NOT_ATTEMPTED
    known = [verdict is Verdict.REPRODUCED for verdict in attempted if verdict is not Verdict.INCONCLUSIVE]
    unknown = len(attempted) - len(known)
    whole = not proxy and len(attempted) == len(verdicts)
    outcomes = ([*known, *[True] * holding, *[False] * (unknown - holding)] for holding in range(unknown + 1))
    possible = {_settled(outcome, whole) for outcome in outcomes}
    return possible.pop() if len(possible) == 1 else Verdict.INCONCLUSIVE


def _settled(holds: Sequence[bool], whole: bool) -> Verdict:
    if not any(holds):
        return Verdict.NOT_REPRODUCED
    return Verdict.REPRODUCED if all(holds) and whole else Verdict.PARTIAL
