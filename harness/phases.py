"""The parts of a Gram-Gauss-Newton step, each with its own seconds: what ``GGN.step`` does, with a clock between."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ggn_core.linear_system import AssembledSystem
from ggn_core.linearizer import Linearizer
from ggn_core.workspace import Workspace

from .measure import undisturbed

__all__ = ["PHASES", "step_phases"]

PHASES = ("forward", "input gradients", "Gram", "solve", "update")

TINY = 1e-9  # learning rate while timing: the work is that of a step, the weights stay where they are
WARM_UP_ROUNDS = 3


def step_phases(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    damping: float,
    rounds: int,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Takes steps of a plain Gram-Gauss-Newton method and times their parts.

    Args:
        model: Its parameters change by next to nothing.
        inputs: (n, …).
        targets: Of the shape that the model returns.
        damping: Of the Gram matrix's diagonal.
        rounds: Steps that count.
        synchronize: Waits for the device.

    Returns:
        For each of ``PHASES`` its seconds, step by step.
    """
    seconds: dict[str, list[float]] = {name: [] for name in PHASES}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        synchronize()
        start = time.perf_counter_ns()
        yield
        synchronize()
        seconds[name].append((time.perf_counter_ns() - start) * 1e-9)

    parameters: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    linearize, workspace = Linearizer(), Workspace()
    with undisturbed():
        for _ in range(WARM_UP_ROUNDS + rounds):
            with phase("forward"):
                residuals = model(inputs) - targets
            with torch.no_grad():
                with phase("input gradients"):
                    jacobian = linearize(residuals, parameters)
                r = residuals.reshape(-1)
                with phase("Gram"):
                    system = AssembledSystem(jacobian, r, None, workspace)
                with phase("solve"):
                    v = system.solve(r, damping).v
                with phase("update"):
                    system.add_transposed_(v, -TINY)
    return {name: values[WARM_UP_ROUNDS:] for name, values in seconds.items()}
