"""Explicit Jacobian rows that are too many to keep: formed for the Gram matrix, dropped, and formed again for Jᵀ v."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .base import Plan
from .triangle import add_outer_

__all__ = ["RecomputedBlock"]


class RecomputedBlock:
    """The explicit Jacobian rows of one parameter; at any time no more than those of one block exist.

    Args:
        parameter: The parameter.
        rows: Forms its rows (o, n, *shape), the same each time.
        total: Number of rows, n·o.
    """

    def __init__(self, parameter: Tensor, rows: Callable[[], Tensor], total: int):
        self.parameter = parameter
        self._rows = rows
        self._total = total

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.parameter,)

    @property
    def dtype(self) -> torch.dtype:
        return self.parameter.dtype

    def plan(self) -> Plan:
        why = "one gradient a sample and output, formed twice: to keep them would take more memory than allowed"
        return Plan("explicit rows, not kept", why, self._total**2 * self.parameter.numel(), 0)

    def add_gram_(self, gram: Tensor) -> None:
        add_outer_(gram, self._matrix())

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self.parameter, (v.flatten() @ self._matrix()).view(self.parameter.shape))]

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        rows = self._rows()
        return (rows.reshape(*rows.shape[:2], -1) @ direction[self.parameter].reshape(-1)).to(self.dtype)

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        ((parameter, part),) = self.transposed(v)
        parameter.add_(part, alpha=alpha)

    def _matrix(self) -> Tensor:
        return self._rows().to(self.dtype).reshape(self._total, -1)  # (o, n, *shape) -> (o n, m)
