"""One training step: GGN's beside SGD's and Adam's, and their ratios measured in pairs."""

import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from ggn_core import GGN

from .networks import WORKLOADS, workload

PAIRS = 30


def _steps(name: str) -> dict[str, Callable[[], object]]:
    """A step of each method, each on its own copy of the model; the learning rates are too small to change the work."""
    return {"ggn": _ggn(name), "sgd": _first_order(name, torch.optim.SGD), "adam": _first_order(name, torch.optim.Adam)}


def _ggn(name: str) -> Callable[[], object]:
    model, inputs, targets = workload(name)
    optimizer = GGN(model, lr=1e-3, damping=10.0)
    return lambda: optimizer.step(lambda: model(inputs) - targets)


def _first_order(name: str, kind: Callable[..., torch.optim.Optimizer]) -> Callable[[], object]:
    model, inputs, targets = workload(name)
    optimizer = kind(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


class Step:
    """The time of a step."""

    params = (list(WORKLOADS), ["ggn", "sgd", "adam"])
    param_names = ("workload", "method")

    def setup(self, name: str, method: str) -> None:
        self.step = _steps(name)[method]
        for _ in range(3):
            self.step()

    def time_step(self, name: str, method: str) -> None:
        self.step()


class Ratio:
    """GGN's step over a rival's: the median over pairs in random order, in one process."""

    params = (list(WORKLOADS), ["sgd", "adam"])
    param_names = ("workload", "rival")
    unit = "GGN / rival"

    def track_step_ratio(self, name: str, rival: str) -> float:
        steps = _steps(name)
        pair = {"ggn": steps["ggn"], rival: steps[rival]}
        for step in pair.values():
            for _ in range(3):
                step()
        order = random.Random(0)
        ratios = []
        for _ in range(PAIRS):
            seconds = {}
            for method in order.sample(sorted(pair), 2):
                start = time.perf_counter()
                pair[method]()
                seconds[method] = time.perf_counter() - start
            ratios.append(seconds["ggn"] / seconds[rival])
        return statistics.median(ratios)
