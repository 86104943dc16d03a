"""Times one benchmark on several processes in turns: pairs in random order, so that what the machine does meets both.

Every turn asks each process for one short block of calls, in an order drawn anew; the others wait meanwhile. A slow
second, a busy neighbour or a warm cache thus falls on both commits alike, and cancels in the ratio of a turn. "again"
is a second process of the base commit: its ratio to the first shows what the same measurement finds where nothing is.
"""

import math
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..frozen import Frozen
from .process import CaseError, SkippedError

__all__ = ["AGAIN", "BASE", "HEAD", "MINIMUM_PAIRS", "SIDES", "Asked", "Case", "Round", "measure", "pin_to_quiet_core"]

BASE, HEAD, AGAIN = "base", "head", "again"
SIDES = (BASE, HEAD, AGAIN)
MINIMUM_PAIRS = 30
SITTINGS = 5
BLOCK_SECONDS = 0.005  # long beside the clock and the way through the pipe, short beside a neighbour's whims
CASE_SECONDS = 30.0  # a slow benchmark gets fewer pairs, down to the minimum
WARM_BELOW = 0.02  # a call that takes longer brings its caches back by itself


class Asked(Protocol):
    """What answers requests, see process.py."""

    def ask(self, do: str, **arguments: Any) -> Any: ...


class Case(Frozen):
    """One benchmark with one choice of its parameters, as worker.py lists it."""

    id: str
    module: str
    kind: str
    method: str
    position: int
    role: str
    unit: str
    tolerance: float


class Round(Frozen):
    """One measurement of a case on fresh processes.

    Attributes:
        samples: Side → seconds a call, one a turn; or one tracked number.
        failed: Side → what went wrong; the samples are then no use.
        skipped: Why the benchmark does not run here, if it says so.
    """

    samples: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    skipped: str = ""


def measure(case: Case, sides: Mapping[str, Asked], pairs: int, order: random.Random) -> Round:
    """Measures the case on every side; whatever goes wrong is part of the result.

    The case is set up several times, for a part of the turns each: where its data happen to lie in memory may cost one
    side some percent, and is drawn anew.

    Args:
        case: What to measure.
        sides: The processes, by SIDES.
        pairs: Turns.
        order: Draws the order of each turn.
    """
    samples: dict[str, list[float]] = {side: [] for side in sides}
    plan: _Plan | None = None
    sittings = 1 if case.role == "track" else SITTINGS
    for sitting in range(sittings):
        failed, skipped = _set_up(case, sides)
        if not failed and not skipped:
            try:
                if case.role == "track":
                    _track(sides, order, samples)
                else:
                    plan = plan or _plan(sides, pairs)
                    _take_turns(sides, plan, plan.turns * (sitting + 1) // sittings, order, samples)
            except _SideError as error:
                failed[error.side] = error.reason
        if HEAD in failed and BASE not in failed:
            # Whether the base would have got through decides between "broken by the commit" and "broken before".
            failed |= _try_once(case, sides[BASE])
        for side, process in sides.items():
            try:
                process.ask("drop")
            except (CaseError, SkippedError) as error:
                failed.setdefault(side, str(error))
        if failed or skipped:
            return Round(failed=failed, skipped="" if failed else skipped)
    return Round(samples=samples)


class _SideError(Exception):
    def __init__(self, side: str, reason: str):
        super().__init__(reason)
        self.side = side
        self.reason = reason


class _Plan(NamedTuple):
    turns: int
    calls: int
    warm: int


def _set_up(case: Case, sides: Mapping[str, Asked]) -> tuple[dict[str, str], str]:
    """What failed, side by side, and why the case is skipped, if it is."""
    key = {"module": case.module, "kind": case.kind, "method": case.method, "position": case.position}
    failed: dict[str, str] = {}
    skipped = ""
    for side, process in sides.items():
        try:
            process.ask("setup", **key)
        except CaseError as error:
            failed[side] = str(error)
        except SkippedError as error:
            skipped = str(error) or "the benchmark says so"
    return failed, skipped


def _plan(sides: Mapping[str, Asked], pairs: int) -> _Plan:
    """How many calls make a block, from the base's speed, and how many turns there is time for."""
    seconds = min(_ask(sides, BASE, "block", calls=1, warm=1) for _ in range(3))
    calls = max(1, math.ceil(BLOCK_SECONDS / max(seconds, 1e-9)))
    warm = int(seconds < WARM_BELOW)
    affordable = int(CASE_SECONDS / (len(sides) * seconds * (calls + warm)))
    return _Plan(min(pairs, max(MINIMUM_PAIRS, affordable)), calls, warm)


def _take_turns(
    sides: Mapping[str, Asked], plan: _Plan, until: int, order: random.Random, samples: dict[str, list[float]]
) -> None:
    while len(samples[BASE]) < until:
        for side in order.sample(list(sides), len(sides)):
            samples[side].append(_ask(sides, side, "block", calls=plan.calls, warm=plan.warm))


def _track(sides: Mapping[str, Asked], order: random.Random, samples: dict[str, list[float]]) -> None:
    for side in order.sample(list(sides), len(sides)):
        value = _ask(sides, side, "value")
        if not math.isfinite(value):
            raise _SideError(side, f"the tracked number is {value}")
        samples[side].append(value)


def _try_once(case: Case, process: Asked) -> dict[str, str]:
    try:
        process.ask("value") if case.role == "track" else process.ask("block", calls=1, warm=0)
    except (CaseError, SkippedError) as error:
        return {BASE: str(error)}
    return {}


def _ask(sides: Mapping[str, Asked], side: str, do: str, **arguments: int) -> float:
    try:
        return float(sides[side].ask(do, **arguments))
    except (CaseError, SkippedError) as error:
        raise _SideError(side, str(error)) from None


def pin_to_quiet_core(sides: Mapping[str, Asked], threads: int) -> None:
    """Puts all processes on the core that is idlest now: one core's neighbours must not count against one commit.

    Where more than one thread is measured, or the system does not pin (only Linux does), nothing happens.
    """
    if threads > 1 or not hasattr(os, "sched_getaffinity"):
        return
    core = _idlest(sorted(os.sched_getaffinity(0)))
    for process in sides.values():
        try:
            process.ask("pin", cores=[core])
        except (CaseError, SkippedError):  # a process that cannot be asked will say so when it is set up
            continue


def _idlest(cores: list[int], seconds: float = 0.1) -> int:
    before = _idle_ticks()
    time.sleep(seconds)
    after = _idle_ticks()
    return max(cores, key=lambda core: after.get(core, 0) - before.get(core, 0))


def _idle_ticks() -> dict[int, int]:
    """Core → clock ticks that it has been idle, from /proc/stat."""
    ticks = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            ticks[int(name[3:])] = int(numbers[3])
    return ticks
