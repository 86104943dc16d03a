"""Warnings about steps that are slow, or that look like a mistake: each optimizer gives them once."""

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from .capture import listed
from .rules.base import output_shape

__all__ = ["Advice", "warn"]

MANY_ROWS = 32  # from here on, the generic rule is told of
WITHIN = (torch.__path__[0] + os.sep, str(Path(__file__).parent) + os.sep)  # where no caller of the package is


class Advice:
    """Remembers whether it has been given."""

    def __init__(self) -> None:
        self._given = False

    def __call__(self, residuals: Tensor, generic: Mapping[Tensor, str], names: Mapping[Tensor, str]) -> None:
        """Warns if there is reason to.

        Args:
            residuals: With their graph.
            generic: The parameters that go through the generic rule, each with the reason.
            names: Of all parameters.
        """
        message = None if self._given else _broadcast(residuals) or _slow(residuals, generic, names)
        if message is not None:
            self._given = True
            warn(message)


def warn(message: str) -> None:
    """Warns of the line that called the package, through whatever torch has wrapped around the call."""
    frame: FrameType | None = sys._getframe()
    level = 0
    while frame is not None and frame.f_code.co_filename.startswith(WITHIN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level + 1)


def _broadcast(residuals: Tensor) -> str | None:
    """Residuals (n, n) that are the difference of something (n, 1) and something else."""
    if residuals.dim() != 2 or not 1 < residuals.shape[0] == residuals.shape[1]:
        return None
    node = residuals.grad_fn
    first = node.next_functions[0][0] if node is not None and node.name() == "SubBackward0" else None
    if first is None or output_shape(first) != (residuals.shape[0], 1):
        return None
    return (
        f"residuals of shape {tuple(residuals.shape)}: the outputs (n, 1) and the targets (n,) were broadcast against "
        "each other; give the targets the outputs' shape"
    )


def _slow(residuals: Tensor, generic: Mapping[Tensor, str], names: Mapping[Tensor, str]) -> str | None:
    rows = residuals.numel()
    if not generic or rows < MANY_ROWS:
        return None
    reasons = "; ".join(dict.fromkeys(generic.values()))
    return (
        f"{listed(names[p] for p in generic)} go through the generic rule, exact and slow: {rows} backward passes a "
        f"step ({reasons}). ggn_core.explain(model, inputs) shows the rules."
    )
