"""Explicit Jacobian rows that are too many to keep: formed for the Gram matrix, dropped, and formed again for Jᵀ v.

The columns of a large weight are formed a few at a time, along its leading dimension: G = Σ_c M_c M_cᵀ over parts M_c
of the columns, and no part meets another.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from .base import WHOLE, Plan, Rows
from .triangle import add_outer_

__all__ = ["BYTES_AT_ONCE", "RecomputedBlock", "parts"]

BYTES_AT_ONCE = 2**28  # of rows, as far as the leading dimension can be divided


class RecomputedBlock:
    """The explicit Jacobian rows of one parameter; at any time no more than a part of those of one block exists.

    Args:
        parameter: The parameter.
        form: Forms its rows (o, n, *shape), the leading dimension cut to the part that is asked for.
        rows: The shape of the residuals.
    """

    def __init__(self, parameter: Tensor, form: Callable[[slice], Tensor], rows: Rows):
        self.parameter = parameter
        self._form = form
        self._rows = rows

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.parameter,)

    @property
    def dtype(self) -> torch.dtype:
        return self.parameter.dtype

    def plans(self) -> list[Plan]:
        why = "one gradient a sample and output, formed twice: to keep them would take more memory than allowed"
        flops = self._rows.total**2 * self.parameter.numel()
        return [Plan(self.parameters, "explicit rows, not kept", why, flops, 0)]

    def add_gram_(self, gram: Tensor) -> None:
        for part in parts(self.parameter, self._rows.total):
            add_outer_(gram, self._matrix(part))

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        columns = torch.cat([v.flatten() @ self._matrix(part) for part in parts(self.parameter, self._rows.total)])
        return [(self.parameter, columns.view(self.parameter.shape))]

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        return self._form(part).to(self.dtype)

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        u = direction[self.parameter].to(self.dtype)
        products = [
            self._matrix(part) @ (u if part == WHOLE else u[part]).reshape(-1)
            for part in parts(self.parameter, self._rows.total)
        ]
        return sum(products[1:], start=products[0]).view(self._rows.outputs, self._rows.samples)

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        ((parameter, part),) = self.transposed(v)
        parameter.add_(part, alpha=alpha)

    def _matrix(self, part: slice) -> Tensor:
        return self.explicit_rows(self.parameter, part).reshape(self._rows.total, -1)  # (o, n, *shape) -> (o n, m)


def parts(parameter: Tensor, rows: int) -> Iterator[slice]:
    """Of the parameter's leading dimension, so that that many rows of one do not take more bytes than may exist."""
    leading = parameter.shape[0] if parameter.dim() else 1
    step = max(1, BYTES_AT_ONCE * leading // max(1, rows * parameter.nbytes))
    if step >= leading:
        yield WHOLE
        return
    for start in range(0, leading, step):
        yield slice(start, min(start + step, leading))
