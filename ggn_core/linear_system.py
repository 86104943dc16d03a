"""The linear system of one step, (J Jᵀ + damping·I) v = rhs, behind one face: assembled, or as products only.

J and r stand for the weighted Jacobian and residuals, S J and S r with S = diag(√ω), wherever samples have weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .conjugate_gradient import ConjugateGradient, solve_iteratively
from .errors import UnsupportedError
from .jacobian import Jacobian
from .nystrom import Nystrom, approximate
from .operator import GramOperator
from .rules.base import as_real
from .rules.triangle import mirrored
from .solve import Solution, solve_damped
from .workspace import Workspace

__all__ = ["AssembledSystem", "LinearSystem", "MatrixFreeSystem"]

COLUMNS_AT_ONCE = 8  # products in one vectorised pass; each holds a copy of the gradients


class LinearSystem(Protocol):
    """What a step asks of its linear system. Vectors over the residuals are (n·o,), and those it gives float64."""

    @property
    def r(self) -> Tensor:
        """The residuals."""

    @property
    def roots(self) -> Tensor | None:
        """√ω, (n·o,), or None without weights."""

    @property
    def generic(self) -> Mapping[Tensor, str]:
        """The parameters that went through the generic rule, each with the reason."""

    def solve(self, rhs: Tensor, damping: float | Tensor) -> Solution:
        """The v with (J Jᵀ + damping·I) v = rhs; nothing but this is repeated for another damping."""

    def gram_product(self, v: Tensor) -> Tensor:
        """J Jᵀ v."""

    def squared_norm(self, v: Tensor) -> Tensor:
        """‖Jᵀ v‖², a scalar."""

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        """J u."""

    def transposed(self, v: Tensor) -> dict[Tensor, Tensor]:
        """Jᵀ v, parameter by parameter."""

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        """Adds ``alpha`` Jᵀ v to the parameters in place."""


Solve = Callable[[Tensor, Tensor, Any, torch.dtype, Workspace], Solution]


class AssembledSystem:
    """With the Gram matrix itself, from the Jacobian's rules.

    Args:
        jacobian: Of the residuals.
        residuals: (n·o,).
        roots: √ω, (n·o,), or None without weights.
        workspace: Holds the matrices; one system at a time works in it.
        solve: As ``solve_damped``, the default, does it.
    """

    def __init__(
        self,
        jacobian: Jacobian,
        residuals: Tensor,
        roots: Tensor | None,
        workspace: Workspace,
        solve: Solve = solve_damped,
    ):
        self._jacobian = jacobian
        self._workspace = workspace
        self._solve = solve
        self.generic = jacobian.generic
        self.roots = roots
        lower = jacobian.lower_gram(workspace)
        self._precision = lower.dtype
        # Symmetric, its rows output by output: cheaper to reorder vectors than the matrix.
        self._matrix = workspace.square("Gram matrix", len(lower), torch.float64, lower.device)
        mirrored(lower, out=self._matrix)
        self.r = self._weighted(residuals.double())
        if roots is not None:
            weights = self._inside(roots)
            self._matrix.mul_(weights).mul_(weights[:, None])

    def solve(self, rhs: Tensor, damping: float | Tensor) -> Solution:
        solution = self._solve(self._matrix, self._inside(rhs), damping, self._precision, self._workspace)
        return replace(solution, v=self._jacobian.rows.sample_major(solution.v))

    def gram_product(self, v: Tensor) -> Tensor:
        return self._jacobian.rows.sample_major(self._matrix @ self._inside(v))

    def squared_norm(self, v: Tensor) -> Tensor:
        # ‖Jᵀ v‖² = vᵀ G v: the price of a matrix-vector product, whatever the number of parameters.
        v = self._inside(v)
        return (v @ (self._matrix @ v)).clamp(min=0)

    def _inside(self, v: Tensor) -> Tensor:
        """In the order and precision of the matrix."""
        return self._jacobian.rows.output_major(v.double())

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        return self._weighted(self._jacobian.product(direction).double())

    def transposed(self, v: Tensor) -> dict[Tensor, Tensor]:
        return self._jacobian.transposed(self._weighted(v))

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        self._jacobian.add_transposed_(self._weighted(v), alpha)

    def _weighted(self, v: Tensor) -> Tensor:
        return v if self.roots is None else v * self.roots


class MatrixFreeSystem:
    """With products only, solved by conjugate gradients. Nothing is asked of how samples depend on each other.

    Args:
        operator: The Gram matrix of the residuals, as an operator.
        parameters: In the operator's order.
        residuals: (n·o,).
        roots: √ω, (n·o,), or None without weights.
        settings: Of the solver.
        start: The last step's solution, if there is one.
        assemble: Makes the Gram matrix by the Jacobian's rules, for the fallback.
    """

    def __init__(
        self,
        operator: GramOperator,
        parameters: Sequence[Tensor],
        residuals: Tensor,
        roots: Tensor | None,
        settings: ConjugateGradient,
        start: Tensor | None,
        assemble: Callable[[], Tensor],
    ):
        self._operator = operator
        self._parameters = parameters
        self.generic: Mapping[Tensor, str] = {}
        self.roots = roots
        self._settings = settings
        self._assemble = assemble
        self._eps = torch.finfo(operator.dtype).eps
        self._start = start if start is not None and start.shape == residuals.shape else None
        self._preconditioner: Nystrom | None = None
        self._matrix: Tensor | None = None
        self.r = self._weighted(residuals.double())

    def solve(self, rhs: Tensor, damping: float | Tensor) -> Solution:
        rhs, damping = rhs.double(), float(damping)
        if self._preconditioner is None:
            rank = min(self._settings.rank, len(rhs))
            self._preconditioner = approximate(self.gram_product, len(rhs), rank, self._eps, rhs.device)
        solution = solve_iteratively(
            self.gram_product, rhs, damping, self._preconditioner, self._settings, self._eps, self._start
        )
        if not solution.converged and len(rhs) <= self._settings.fallback_rows:
            return self._solve_densely(rhs, damping, solution)
        return solution

    def gram_product(self, v: Tensor) -> Tensor:
        """G v, or G V for columns (n·o, k)."""
        if v.dim() == 1:
            return self._weighted((self._operator @ self._weighted(v.double())).double())
        return torch.cat([self._columns(part) for part in torch.split(v, COLUMNS_AT_ONCE, 1)], 1)

    def squared_norm(self, v: Tensor) -> Tensor:
        return torch.stack([as_real(part).double().square().sum() for part in self.transposed(v).values()]).sum()

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        return self._weighted(self._operator.product([direction[p] for p in self._parameters]).double())

    def transposed(self, v: Tensor) -> dict[Tensor, Tensor]:
        parts = self._operator.transposed(self._weighted(v.double()).to(self._operator.dtype))
        return dict(zip(self._parameters, parts, strict=True))

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        parts = self.transposed(v)
        torch._foreach_add_(list(parts), list(parts.values()), alpha=alpha)

    def _solve_densely(self, rhs: Tensor, damping: float, unconverged: Solution) -> Solution:
        if self._matrix is None:
            try:
                self._matrix = self._assemble().double()
                if self.roots is not None:
                    self._matrix = self._matrix * (self.roots * self.roots[:, None])
            except UnsupportedError:  # no Jacobian by samples: column by column
                self._matrix = self.gram_product(torch.eye(len(rhs), dtype=rhs.dtype, device=rhs.device))
        solution = solve_damped(self._matrix, rhs, damping, self._operator.dtype)
        return replace(
            solution,
            solver=f"cg, then {solution.solver}",
            iterations=unconverged.iterations,
            relative_residual=unconverged.relative_residual,
        )

    def _columns(self, v: Tensor) -> Tensor:
        if self.roots is None:
            return (self._operator @ v).double()
        roots = self.roots.double()[:, None]
        return roots * (self._operator @ (roots * v)).double()

    def _weighted(self, v: Tensor) -> Tensor:
        return v if self.roots is None else v * self.roots
