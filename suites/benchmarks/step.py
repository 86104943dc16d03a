"""One training step: GGN's, SGD's and Adam's beside it, and their ratios measured in pairs."""

import random
import statistics
import time
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from ggn_core import GGN

from .by_hand import step_by_hand
from .networks import BATCHES, DEVICES, WIDTHS, mlp, synchronize

PAIRS = 30
WARM_UP_STEPS = 3

# The learning rates are too small to change the work from step to step.
TINY = 1e-6


def _ggn(width: int, batch: int, device: str) -> Callable[[], object]:
    model, inputs, targets = mlp(width, batch, device)
    optimizer = GGN(model, lr=TINY, damping=10.0)
    return lambda: optimizer.step(lambda: model(inputs) - targets)


def _first_order(kind: Callable[..., torch.optim.Optimizer]) -> Callable[[int, int, str], Callable[[], object]]:
    def made(width: int, batch: int, device: str) -> Callable[[], object]:
        model, inputs, targets = mlp(width, batch, device)
        optimizer = kind(model.parameters(), lr=TINY, fused=True)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    return made


def _by_hand(width: int, batch: int, device: str) -> Callable[[], object]:
    model, inputs, targets = mlp(width, batch, device)
    return step_by_hand(model, inputs, targets, lr=TINY, damping=10.0)


METHODS = {
    "ggn": _ggn,
    "sgd": _first_order(torch.optim.SGD),
    "adam": _first_order(torch.optim.Adam),
    "by hand": _by_hand,
}


def _warmed_up(method: str, width: int, batch: int, device: str) -> Callable[[], object]:
    step = METHODS[method](width, batch, device)
    for _ in range(WARM_UP_STEPS):
        step()
    synchronize(device)
    return step


class Step:
    """GGN's step."""

    params: ClassVar = [WIDTHS, BATCHES, DEVICES]
    param_names = ("width", "batch", "device")

    def setup(self, width: int, batch: int, device: str) -> None:
        self.step = _warmed_up("ggn", width, batch, device)

    def time_step(self, width: int, batch: int, device: str) -> None:
        self.step()
        synchronize(device)


class RivalStep:
    """A first-order step, for the eye: no commit of this project changes it."""

    params: ClassVar = [["sgd", "adam"], WIDTHS, BATCHES, DEVICES]
    param_names = ("method", "width", "batch", "device")
    gated = False

    def setup(self, method: str, width: int, batch: int, device: str) -> None:
        self.step = _warmed_up(method, width, batch, device)

    def time_step(self, method: str, width: int, batch: int, device: str) -> None:
        self.step()
        synchronize(device)


class Ratio:
    """GGN's step over a rival's: the median over pairs in random order, in one process.

    The step by hand knows its network: what GGN's takes longer is the price of serving any other.
    """

    params: ClassVar = [["sgd", "adam", "by hand"], WIDTHS, BATCHES, DEVICES]
    param_names = ("rival", "width", "batch", "device")
    unit = "GGN step / rival step"
    gated = False  # noisier than the step itself, which the gate measures in its own pairs

    def track_step_ratio(self, rival: str, width: int, batch: int, device: str) -> float:
        steps = {method: _warmed_up(method, width, batch, device) for method in ("ggn", rival)}
        order = random.Random(0)
        ratios = []
        for _ in range(PAIRS):
            seconds = {}
            for method in order.sample(sorted(steps), 2):
                start = time.perf_counter()
                steps[method]()
                synchronize(device)
                seconds[method] = time.perf_counter() - start
            ratios.append(seconds["ggn"] / seconds[rival])
        return statistics.median(ratios)
