"""What a step does otherwise where no value may be looked at, so that a CUDA graph can record and replay it.

An ordinary step decides by values: whether the residuals are finite, whether a factorisation exists, which fallback to
take. Each decision makes the CPU wait for the GPU, and none could change when a recorded step is replayed. Here the
same decisions are made on the device, by selections among results.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .direction import Direction
from .solve import Solution, factored, rounding_error, substituted
from .workspace import Workspace

__all__ = ["CapturableDirection", "solve_on_device"]


def solve_on_device(
    gram: Tensor,
    residuals: Tensor,
    damping: float | Tensor,
    precision: torch.dtype | None = None,
    workspace: Workspace | None = None,
) -> Solution:
    """``solve_damped`` by one Cholesky factorisation, whatever the values.

    Where the damping is below the rounding error of the Gram matrix, a relative jitter of that size makes up for it,
    as in the first fallback of ``solve_damped``. NaN where the factorisation fails all the same.

    Args:
        gram: (N, N), float64, symmetric positive semi-definite up to rounding.
        residuals: (N,).
        damping: > 0.
        precision: The dtype that G was computed in, if it has been converted since.
        workspace: Where the factors are held.
    """
    noise = rounding_error(len(gram), precision or gram.dtype)
    drowned = noise * gram.diagonal().amax() > damping
    jitter = drowned.double() * noise  # torch.where would take both numbers to single precision
    factor, info = factored(gram, damping, jitter, torch.float64, workspace or Workspace())
    v = substituted(factor, residuals.double())
    return Solution(torch.where(info == 0, v, torch.nan), "cholesky", damping)


class CapturableDirection(Direction):
    """A direction that is zero where an ordinary step would refuse to go.

    Attributes:
        finite: Whether it is the ordinary one, a bool tensor on the device.
    """

    @cached_property
    def finite(self) -> Tensor:  # type: ignore[override]
        return torch.isfinite(self.norm)

    @property
    def parts(self) -> dict[Tensor, Tensor]:
        if self._parts is None:
            if self.prior is None:
                _ = self.norm  # from the solution, cheaper than from the parts
            unchecked = super().parts
            # Selected, not multiplied by 0, which would let a NaN through.
            self._parts = {p: torch.where(self.finite, part, 0) for p, part in unchecked.items()}
        return self._parts

    def decay(self, group: Mapping[str, Any]) -> Tensor:
        # In double precision, as the numbers that an ordinary step multiplies by.
        decay: Tensor = group["lr"] * group["weight_decay"] * self.finite.double()
        return 1 - decay

    def move_(self, length: float) -> None:
        for group in self._groups:
            own = [p for p in group["params"] if p in self.parts]
            if own:
                # A learning rate on the device may change between replays; as a number it is part of the recording.
                torch._foreach_sub_(own, torch._foreach_mul([self.parts[p] for p in own], length * group["lr"]))
