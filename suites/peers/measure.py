"""Clocks and memory. The standard library alone, so that the JAX environment measures in the same way."""

import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BUSY", "FULL", "QUICK", "Budget", "Memory", "interleave", "settled_load"]

BUSY = 0.5  # running programs, on average over the last minute
SHORT = 1.0  # seconds; a longer call does not feel what ran before it
REPEATS = 20  # of a short call in one round, at most


@dataclass(frozen=True)
class Budget:
    """How long one case is measured: ``seconds``, with at least and at most so many rounds; a case is given up, its
    process ended, after ``limit`` seconds.
    """

    seconds: float
    least: int
    most: int
    limit: float


FULL = Budget(seconds=25, least=5, most=100, limit=900)
QUICK = Budget(seconds=1, least=2, most=10, limit=300)


def settled_load(patience: float, interval: float = 5.0) -> float:
    """The machine's load, once what ran before, such as an installation, has faded from it.

    Args:
        patience: Seconds to wait at most.
        interval: Seconds between two looks.
    """
    load = os.getloadavg()[0]
    while load >= BUSY and patience > 0:
        time.sleep(interval)
        patience -= interval
        load = os.getloadavg()[0]
    return load


def interleave(
    calls: Mapping[str, Callable[[], object]], budget: Budget, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times every call once a round, in random order, so that what disturbs the machine disturbs all alike.

    A call shorter than a second is timed right after an untimed one of its own: in training, a step follows a step of
    the same method and finds its own data in the caches, whoever else ran here before. Beside a much longer call it is
    timed several times, for a tenth of that one's time at most, and the round keeps the median: few rounds are left.

    Returns:
        For each call its seconds, round by round: the same index is the same round.
    """
    for call in calls.values():
        call()  # pays what is paid once
    first = {name: _seconds(call, clock) for name, call in calls.items()}
    repeats = {name: _repeats(seconds, max(first.values())) for name, seconds in first.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    began = clock()
    for rounds in range(budget.most):
        if rounds >= budget.least and clock() - began > budget.seconds:
            break
        for name in order.sample(sorted(calls), len(calls)):
            if first[name] < SHORT:
                calls[name]()
            seconds[name].append(statistics.median(_seconds(calls[name], clock) for _ in range(repeats[name])))
    return seconds


def _repeats(seconds: float, longest: float) -> int:
    return max(1, min(REPEATS, int(longest / 10 / max(seconds, 1e-9))))


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


class Memory:
    """Peak resident memory above what was resident when this object was made, in MiB.

    Linux lets a process reset its peak, so that an import that needed more for a moment does not hide what follows.
    Elsewhere the peak of the whole life of the process counts (``ru_maxrss``), above the peak so far.
    """

    def __init__(self) -> None:
        self._resets = _reset_peak()
        self._base = self._read("VmRSS")

    def peak(self) -> float:
        return self._read("VmHWM") - self._base

    def _read(self, field: str) -> float:
        if self._resets:
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10  # kB
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return "VmHWM" in Path("/proc/self/status").read_text()
    except OSError:
        return False
