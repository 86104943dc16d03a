"""Clocks: how long steps take, so that a change of the machine's speed in between meets all of them alike."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

__all__ = ["interleaved", "repeats_for", "synchronize_on", "undisturbed", "warm_up"]

Step = Callable[[], object]

BLOCK_SECONDS = 2e-3  # shorter ones drown in the clock's and the scheduler's noise
SETTLED = 0.05  # two medians this close, relatively, count as equal
WARM_UP_SECONDS = 5.0


def synchronize_on(device: str) -> Callable[[], None]:
    """Waits for the device's work to be done; nothing to wait for on a CPU."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps the garbage collector from running inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def warm_up(step: Step, synchronize: Callable[[], None]) -> float:
    """Takes steps until their median over five settles, or five seconds have passed.

    Returns:
        The last median, in seconds.
    """
    begin = time.perf_counter()
    before = float("inf")
    while True:
        median = statistics.median(_timed(step, 1, synchronize) for _ in range(5))
        if abs(before / median - 1) < SETTLED or time.perf_counter() - begin > WARM_UP_SECONDS:
            return median
        before = median


def repeats_for(seconds: float) -> int:
    """How many steps of this length make a block that is long enough to time."""
    return max(1, round(BLOCK_SECONDS / seconds))


def interleaved(
    steps: Sequence[Step], repeats: Sequence[int], rounds: int, seed: int, synchronize: Callable[[], None]
) -> list[list[float]]:
    """Times steps in turns: every round runs a block of each, in an order drawn anew.

    Random order inside a round, and comparison within rounds, is what makes ratios trustworthy on a machine that does
    other work: measured one after the other, equal code differed significantly in 24 of 40 tries under load, in random
    pairs in none.

    Args:
        steps: What to time.
        repeats: Steps in a block of each.
        rounds: Number of rounds.
        seed: Of the orders.
        synchronize: Waits for the device.

    Returns:
        Seconds a step, for each of ``steps`` one entry a round.
    """
    order = random.Random(seed)
    seconds: list[list[float]] = [[] for _ in steps]
    with undisturbed():
        for _ in range(rounds):
            for index in order.sample(range(len(steps)), len(steps)):
                seconds[index].append(_timed(steps[index], repeats[index], synchronize))
    return seconds


def _timed(step: Step, repeats: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter_ns()
    for _ in range(repeats):
        step()
    synchronize()
    return (time.perf_counter_ns() - start) / repeats * 1e-9
