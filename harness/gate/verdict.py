"""What the measurements of a case say, and what the cases say together.

A case is *slower* if the interval of its median ratio excludes 1 after Holm's correction over the suite, the ratio
exceeds 1 + max(threshold, twice the A/A spread), and two measurements on fresh processes agree. It is *unchanged* only
if the interval rules out a slowdown of twice the threshold. What is neither is measured again, and in the end
inconclusive: the gate never takes "not seen" for "not there".
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from enum import StrEnum

from ..frozen import Frozen
from .intervals import Effect, effect, holm
from .pairs import AGAIN, BASE, HEAD, Case, Round

__all__ = ["THRESHOLD", "Finding", "Status", "Verdict", "judge", "overall"]

THRESHOLD = 0.05
LEVEL = 0.05
CONFIRMATIONS = 2


class Status(StrEnum):
    """What became of one case."""

    SLOWER = "regression"
    FAILED = "crashed"  # runs at the base, fails at the head
    FASTER = "improvement"
    UNCHANGED = "unchanged"
    NOISY = "inconclusive: noisy machine"  # the base differs from itself
    UNDECIDED = "inconclusive"
    BROKEN = "fails in both"
    NEW = "new"  # the base cannot run it
    REMOVED = "removed"  # the head no longer has it
    SKIPPED = "skipped"


class Verdict(StrEnum):
    """The answer of the gate."""

    REGRESSION = "regression"
    INCONCLUSIVE = "inconclusive"
    FINE = "no regression"

    @property
    def exit_code(self) -> int:
        return {Verdict.FINE: 0, Verdict.REGRESSION: 1, Verdict.INCONCLUSIVE: 3}[self]


class Finding(Frozen):
    """A case, what was measured, and what that means.

    Attributes:
        id: The benchmark's name, with its parameters.
        status: What it means.
        unit: Of ``base`` and ``head``.
        base: Median at the base commit; None if nothing was measured.
        head: Median at the head commit.
        ratio: Head over base.
        noise: The base over itself (A/A).
        p_adjusted: Of ``ratio``, after Holm over the suite.
        limit: The smallest relative change that counts here.
        reason: For what failed, was skipped, or is not settled.
        rounds: All measurements, each on fresh processes.
        settled: Whether measuring again is no use.
    """

    id: str
    status: Status
    unit: str = ""
    base: float | None = None
    head: float | None = None
    ratio: Effect | None = None
    noise: Effect | None = None
    p_adjusted: float | None = None
    limit: float | None = None
    reason: str = ""
    rounds: list[Round] = []
    settled: bool = True


def judge(measured: Mapping[str, tuple[Case, Sequence[Round]]], threshold: float = THRESHOLD) -> list[Finding]:
    """One finding a case, from all rounds so far.

    Args:
        measured: Case id → the case, and its rounds.
        threshold: The relative change below which nothing counts.
    """
    effects = {
        name: (_pooled(rounds, HEAD), _pooled(rounds, AGAIN))
        for name, (case, rounds) in measured.items()
        if case.role == "time" and any(r.samples for r in rounds)
    }
    ratios = dict(zip(effects, holm([ratio.p for ratio, _ in effects.values()]), strict=True))
    noises = dict(zip(effects, holm([noise.p for _, noise in effects.values()]), strict=True))
    findings = []
    for name, (case, rounds) in measured.items():
        ended = _ended(rounds)
        if ended is not None:
            finding = ended
        elif case.role == "time":
            finding = _timed(rounds, *effects[name], ratios[name], noises[name], threshold)
        else:
            finding = _tracked(rounds, case.tolerance)
        findings.append(Finding.model_validate({"id": name, "unit": case.unit, "rounds": rounds, **finding}))
    return findings


def _ended(rounds: Sequence[Round]) -> dict[str, object] | None:
    """The finding of a case that the last round could not measure; None if it could.

    Once may be an accident of the machine; the second time, on fresh processes, it is the commit.
    """
    last = rounds[-1]
    if last.skipped:
        return {"status": Status.SKIPPED, "reason": last.skipped}
    if not last.failed:
        return None
    settled = sum(bool(r.failed) for r in rounds) >= CONFIRMATIONS
    at_base = last.failed.get(BASE) or last.failed.get(AGAIN)
    if at_base is None:
        return {"status": Status.FAILED, "reason": last.failed[HEAD], "settled": settled}
    if HEAD in last.failed:
        return {"status": Status.BROKEN, "reason": last.failed[HEAD], "settled": settled}
    return {"status": Status.NEW, "reason": f"the base commit cannot run it: {_last_line(at_base)}", "settled": settled}


def _timed(
    rounds: Sequence[Round], ratio: Effect, noise: Effect, p_ratio: float, p_noise: float, threshold: float
) -> dict[str, object]:
    rounds = [r for r in rounds if r.samples]
    limit = max(threshold, 2 * _spread(noise))
    slower = sum(_ratio(r) > 1 + limit for r in rounds)
    faster = sum(_ratio(r) < 1 / (1 + limit) for r in rounds)
    resolution = 2 * threshold
    status, reason, settled = Status.UNDECIDED, "", False
    if p_noise < LEVEL and abs(math.log(noise.ratio)) > math.log1p(threshold):
        status, reason = Status.NOISY, "the base commit differs from itself"
    elif p_ratio < LEVEL and ratio.ratio > 1 + limit:
        status, settled = (Status.SLOWER, True) if slower >= CONFIRMATIONS else (Status.UNDECIDED, False)
        reason = "" if settled else "slower in one measurement only"
    elif p_ratio < LEVEL and ratio.ratio < 1 / (1 + limit):
        status, settled = (Status.FASTER, True) if faster >= CONFIRMATIONS else (Status.UNDECIDED, False)
        reason = "" if settled else "faster in one measurement only"
    elif limit > resolution:
        reason = f"the base commit differs from itself by up to {_spread(noise):.0%}"
    elif ratio.ratio > 1 + threshold or ratio.high > 1 + resolution:
        reason = f"a slowdown of {threshold:.0%} to {resolution:.0%} is neither certain nor ruled out"
    else:
        status, settled = Status.UNCHANGED, True
    return {
        "status": status,
        "base": statistics.median(x for r in rounds for x in r.samples[BASE]),
        "head": statistics.median(x for r in rounds for x in r.samples[HEAD]),
        "ratio": ratio,
        "noise": noise,
        "p_adjusted": p_ratio,
        "limit": limit,
        "reason": reason,
        "settled": settled,
    }


def _tracked(rounds: Sequence[Round], tolerance: float) -> dict[str, object]:
    """A tracked number is measured once a round: it counts if it leaves its tolerance in two rounds, and in all."""
    rounds = [r for r in rounds if r.samples]
    base, head, again = (statistics.median(r.samples[side][0] for r in rounds) for side in (BASE, HEAD, AGAIN))
    spread = max(_distance(r.samples[AGAIN][0], r.samples[BASE][0]) for r in rounds)
    limit = max(tolerance, 2 * spread)
    over = sum(_over(r.samples[HEAD][0], r.samples[BASE][0], limit) for r in rounds)
    under = sum(_over(r.samples[BASE][0], r.samples[HEAD][0], limit) for r in rounds)
    status, settled, reason = Status.UNCHANGED, True, ""
    if spread > tolerance:
        status, settled, reason = Status.NOISY, False, "the base commit differs from itself"
    elif over or under:
        agreed = max(over, under) == len(rounds)
        settled = agreed and len(rounds) >= CONFIRMATIONS
        status = Status.UNDECIDED if not settled else Status.SLOWER if over else Status.FASTER
        reason = "" if settled else "changed in one measurement only"
    return {
        "status": status,
        "base": base,
        "head": head,
        "ratio": _point(head, base),
        "noise": _point(again, base),
        "limit": limit,
        "reason": reason,
        "settled": settled,
    }


def overall(findings: Sequence[Finding]) -> Verdict:
    """One finding that is sure outweighs those that are not; no finding at all decides nothing."""
    found = {finding.status for finding in findings}
    if found & {Status.SLOWER, Status.FAILED}:
        return Verdict.REGRESSION
    if found & {Status.NOISY, Status.UNDECIDED, Status.BROKEN} or not found & {Status.UNCHANGED, Status.FASTER}:
        return Verdict.INCONCLUSIVE
    return Verdict.FINE


def _pooled(rounds: Sequence[Round], side: str) -> Effect:
    taken = [r.samples for r in rounds if r.samples]
    return effect([x for s in taken for x in s[side]], [x for s in taken for x in s[BASE]])


def _ratio(r: Round) -> float:
    return math.exp(statistics.median(math.log(h / b) for h, b in zip(r.samples[HEAD], r.samples[BASE], strict=True)))


def _spread(noise: Effect) -> float:
    """How far from 1 the interval of A/A reaches, as a relative change."""
    return max(noise.high, 1 / noise.low) - 1


def _over(value: float, reference: float, limit: float) -> bool:
    return value > reference and _distance(value, reference) > limit


def _distance(first: float, second: float) -> float:
    """The relative change from the smaller to the larger, infinite from zero."""
    small, large = sorted((abs(first), abs(second)))
    if large == small:
        return 0.0
    return large / small - 1 if small > 0 else math.inf


def _point(value: float, reference: float) -> Effect | None:
    """A ratio without an interval."""
    if reference == 0 or not math.isfinite(value / reference):
        return None
    ratio = value / reference
    return Effect(ratio, ratio, ratio, math.nan, 1)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""
