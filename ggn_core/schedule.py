"""A schedule for the damping, as ``torch.optim.lr_scheduler`` has them for learning rates only."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import SettingError
from .search import LevenbergMarquardt

__all__ = ["DampingScheduler"]


class DampingScheduler:
    """Sets the damping to its initial value times ``factor(step)``, as ``LambdaLR`` does with learning rates.

    Args:
        optimizer: A GGN; not one whose search adapts the damping itself.
        factor: From the number of calls of ``step`` so far, ≥ 0. Only the count is saved, not the function.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = GGN(model, damping=10.0)
        >>> scheduler = DampingScheduler(optimizer, lambda epoch: max(0.9**epoch, 0.01))
        >>> scheduler.step()  # once an epoch
        >>> optimizer.param_groups[0]["damping"]
        9.0

    Raises:
        SettingError: The optimizer has no damping, or adapts it itself.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float]):
        if any("damping" not in group for group in optimizer.param_groups):
            raise SettingError(f"{type(optimizer).__name__} has no damping to schedule")
        if isinstance(getattr(optimizer, "search", None), LevenbergMarquardt):
            raise SettingError("LevenbergMarquardt adapts the damping itself: a schedule would overwrite it")
        self.optimizer = optimizer
        self.factor = factor
        self.count = 0
        self.initial = [float(group["damping"]) for group in optimizer.param_groups]
        self._write()

    def step(self) -> None:
        """Goes one step on."""
        self.count += 1
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The count and the initial dampings."""
        return {"count": self.count, "initial": list(self.initial)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from ``state_dict()``."""
        self.count, self.initial = state_dict["count"], list(state_dict["initial"])
        self._write()

    def _write(self) -> None:
        for group, initial in zip(self.optimizer.param_groups, self.initial, strict=True):
            damping = initial * self.factor(self.count)
            if isinstance(group["damping"], Tensor):
                group["damping"].fill_(damping)  # where it is, as torch's schedulers do: a CUDA graph reads it there
            else:
                group["damping"] = damping
