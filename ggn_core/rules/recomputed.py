"""Explicit Jacobian rows that are too many to keep: formed for the Gram matrix, dropped, and formed again for Jᵀ v.

The columns of a large weight are formed a few at a time, along its leading dimension: G = Σ_c M_c M_cᵀ over parts M_c
of the columns, and no part meets another.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .base import WHOLE, Plan, Rows, as_real, in_shape_of
from .triangle import add_outer_

__all__ = ["BYTES_AT_ONCE", "Form", "RecomputedBlock", "RowMemory", "grouped", "parts"]

BYTES_AT_ONCE = 2**28  # of rows, as far as the leading dimension can be divided

# Forms the rows (o, n, *shape) of some parameters; those of a single one cut to a part of its leading dimension.
Form = Callable[[Sequence[Tensor], slice], Sequence[Tensor]]


class RowMemory:
    """What may be kept of explicit rows at one step: who asks first is served first.

    Args:
        nbytes: That many bytes.

    Attributes:
        left: Of them.
    """

    def __init__(self, nbytes: float):
        self.left = nbytes

    def divided(self, parameters: Iterable[Tensor], rows: Rows) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters whose rows are to be kept, the smallest first, and the others; each in the order given."""
        parameters = list(parameters)
        kept = set()
        for parameter in sorted(parameters, key=lambda p: p.nbytes):
            if rows.total * parameter.nbytes <= self.left:
                self.left -= rows.total * parameter.nbytes
                kept.add(parameter)
        return [p for p in parameters if p in kept], [p for p in parameters if p not in kept]


class RecomputedBlock:
    """Explicit Jacobian rows of some parameters, of which no more than ``BYTES_AT_ONCE`` exist at any time.

    Args:
        parameters: One, or several of one dtype whose rows are few enough together.
        form: Forms them.
        rows: The shape of the residuals.
    """

    def __init__(self, parameters: Sequence[Tensor], form: Form, rows: Rows):
        self.parameters = tuple(parameters)
        self._form = form
        self._rows = rows

    @property
    def dtype(self) -> torch.dtype:
        return as_real(self.parameters[0]).dtype

    @property
    def times(self) -> int:
        """How often the rows are formed, in parts, for the Gram matrix."""
        return sum(1 for _ in self._parts())

    def plans(self) -> list[Plan]:
        why = "one gradient a sample and output, formed twice: to keep them would take more memory than allowed"
        flops = self._rows.total**2 * sum(as_real(p).numel() for p in self.parameters)
        return [Plan(self.parameters, "explicit rows, not kept", why, flops, 0)]

    def add_gram_(self, gram: Tensor) -> None:
        for part in self._parts():
            for matrix in self._matrices(part):
                add_outer_(gram, matrix)

    def transposed(self, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        weights = v.flatten()
        by_part = [[weights @ matrix for matrix in self._matrices(part)] for part in self._parts()]
        columns = (torch.cat(parts) for parts in zip(*by_part, strict=True))
        return [(p, in_shape_of(p, column)) for p, column in zip(self.parameters, columns, strict=True)]

    def explicit_rows(self, parameter: Tensor, part: slice = WHOLE) -> Tensor:
        (rows,) = self._form([parameter], part)
        return as_real(rows).to(self.dtype)

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        total = torch.zeros((), dtype=self.dtype, device=self.parameters[0].device)
        for part in self._parts():
            for p, matrix in zip(self.parameters, self._matrices(part), strict=True):
                u = as_real(direction[p]).to(self.dtype)
                total = total + matrix @ (u if part == WHOLE else u[part]).reshape(-1)
        return total.view(self._rows.outputs, self._rows.samples)

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        for parameter, part in self.transposed(v):
            parameter.add_(part, alpha=alpha)

    def _parts(self) -> Iterator[slice]:
        """Of the leading dimension, where there is one parameter."""
        return parts(self.parameters[0], self._rows.total) if len(self.parameters) == 1 else iter([WHOLE])

    def _matrices(self, part: slice) -> list[Tensor]:
        formed = [as_real(rows).to(self.dtype) for rows in self._form(self.parameters, part)]
        return [rows.reshape(self._rows.total, -1) for rows in formed]  # (o, n, *shape) -> (o n, m)


def parts(parameter: Tensor, rows: int) -> Iterator[slice]:
    """Of the parameter's leading dimension, so that that many rows of one do not take more bytes than may exist."""
    leading = parameter.shape[0] if parameter.dim() else 1
    step = max(1, BYTES_AT_ONCE * leading // max(1, rows * parameter.nbytes))
    if step >= leading:
        yield WHOLE
        return
    for start in range(0, leading, step):
        yield slice(start, min(start + step, leading))


def grouped(parameters: Iterable[Tensor], rows: int) -> Iterator[list[Tensor]]:
    """Parameters of one dtype, as many as that many rows of may exist at once; one at least."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        by_dtype.setdefault(as_real(parameter).dtype, []).append(parameter)
    for own in by_dtype.values():
        group: list[Tensor] = []
        for parameter in own:
            if group and rows * sum(p.nbytes for p in (*group, parameter)) > BYTES_AT_ONCE:
                yield group
                group = []
            group.append(parameter)
        yield group
