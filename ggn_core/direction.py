r"""The direction of a step, Δ = μφ + Jᵀ v with (J Jᵀ + damping·I) v = r − μ J φ; the step itself is w ← w − s·lr·Δ.

φ is the last direction, see momentum.py. s, the step length, is 1 unless a limit or a search says otherwise.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .linear_system import LinearSystem

__all__ = ["Direction"]


class Direction:
    """One direction, from one damping. What it takes to know more about it is computed when asked for.

    Args:
        system: The linear system.
        damping: Added to the Gram's diagonal.
        prior: μφ for each parameter, or None.
        groups: The optimizer's parameter groups.
        lr: The learning rate all groups share, or None where they differ.

    Attributes:
        finite: Whether the step leads anywhere.
    """

    finite: bool | Tensor = True

    def __init__(
        self,
        system: LinearSystem,
        damping: float | Tensor,
        prior: Mapping[Tensor, Tensor] | None,
        groups: Sequence[Mapping[str, Any]],
        lr: float | Tensor | None,
    ):
        self.prior = prior
        self._system, self._groups, self._lr = system, groups, lr
        self._prior_image = None if prior is None else system.product(prior)  # J μφ
        rhs = system.r if self._prior_image is None else system.r - self._prior_image
        self.solution = system.solve(rhs, damping)
        self._parts: dict[Tensor, Tensor] | None = None

    @property
    def parts(self) -> dict[Tensor, Tensor]:
        """Δ, parameter by parameter."""
        if self._parts is None:
            self._parts = self._system.transposed(self.solution.v)
            if self.prior is not None:
                self._parts = {p: part + self.prior[p] for p, part in self._parts.items()}
        return self._parts

    @cached_property
    def norm(self) -> Tensor:
        """‖Δ‖, a scalar."""
        if self.prior is None and self._parts is None:
            return self._system.squared_norm(self.solution.v).sqrt()
        return _norm(list(self.parts.values()))

    def limited(self, max_step_norm: float | None) -> float:
        """The largest step length ≤ 1 with ‖s·lr·Δ‖ ≤ ``max_step_norm``."""
        if max_step_norm is None:
            return 1.0
        length = float(self._lr * self.norm if self._lr is not None else _norm(list(self._scaled().values())))
        return min(1.0, max_step_norm / length) if length > 0 else 1.0

    @cached_property
    def image(self) -> Tensor:
        """J (lr Δ), the change of the linearised residuals, sign aside: (n·o,), float64."""
        if self._lr is None:
            return self._system.product(self._scaled())
        image = self._system.gram_product(self.solution.v)
        return self._lr * (image if self._prior_image is None else image + self._prior_image)

    def predicted(self, length: float) -> float:
        """By how much the step lowers the sum of squares of the linearised residuals, ‖r‖² − ‖r − s J (lr Δ)‖²."""
        return length * self.slope - length**2 * float(self.image.square().sum())

    @cached_property
    def slope(self) -> float:
        """Minus the derivative of the sum of squares with respect to the step length, 2 rᵀ J (lr Δ)."""
        return 2 * float(self._system.r @ self.image)

    def complete(self) -> "Direction":
        """Computes everything now, while the parameters are where the graph was recorded."""
        _ = self.parts, self.norm, self.slope
        return self

    def decay(self, group: Mapping[str, Any]) -> float | Tensor:
        """What weight decay multiplies the parameters of a group by."""
        return 1 - float(group["lr"]) * float(group["weight_decay"])

    def move_(self, length: float) -> None:
        """Adds −s·lr·Δ to the parameters in place; fused into the layers where Δ itself is not needed."""
        if self._parts is None and self.prior is None and self._lr is not None:
            self._system.add_transposed_(self.solution.v, -length * float(self._lr))
            return
        for group in self._groups:
            own = [p for p in group["params"] if p in self.parts]
            if own:
                torch._foreach_add_(own, [self.parts[p] for p in own], alpha=-length * float(group["lr"]))

    def _scaled(self) -> dict[Tensor, Tensor]:
        return {p: self.parts[p] * group["lr"] for group in self._groups for p in group["params"] if p in self.parts}


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.double() for n in torch._foreach_norm(tensors)]))
    return norm
