"""Makes each step's linear system: the Gram matrix assembled, or products with it, as the solver asks."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from .capturable import solve_on_device
from .capture import trace
from .choice import Choose
from .conjugate_gradient import ConjugateGradient
from .errors import ResidualsError, SettingError, UnsupportedError
from .linear_system import AssembledSystem, LinearSystem, MatrixFreeSystem
from .linearizer import Linearizer
from .operator import GramOperator, twice_differentiable
from .solve import solve_damped
from .weights import root_weights
from .workspace import Workspace

__all__ = ["Solver", "SystemMaker", "one_backward"]

Solver = Literal["auto", "cholesky", "cg"] | ConjugateGradient

# What "auto" weighs, with N = n·o rows and P parameters: the Cholesky factorisation, N³/3 multiply-adds in float64,
# against some 130 products with the Gram matrix (sketch and iterations) of about 8 n P operations each. By the count
# the products win from N² o = constant · P on. The constant was fitted to process times on one CPU thread, of MLPs
# 8-w-w-o in float32 with w = 64 and 256, o = 1 and 10, N = 1,000 to 8,000, damping 3. The count takes each parameter
# as used once a sample, so for convolutions the switch comes early.
SWITCH = 1400
FEWEST_ROWS = 2048  # below, the dense solve takes a fraction of a second whatever the model
MOST_ROWS = 16384  # above, the three float64 matrices that a dense solve holds at a time would take over 6 GiB


class SystemMaker:
    """Remembers what has been proved about graphs from step to step, and keeps its matrices; nothing else.

    Args:
        solver: See GGN.
        row_memory_gib: See GGN.
        capturable: See GGN.
        choose: See GGN.

    Raises:
        SettingError: The solver is not one of those, or not capturable; or there is no such choice.
    """

    def __init__(self, solver: Solver, row_memory_gib: float, capturable: bool, choose: Choose):
        if not (isinstance(solver, ConjugateGradient) or solver in ("auto", "cholesky", "cg")):
            raise SettingError(f"solver must be 'auto', 'cholesky', 'cg' or a ConjugateGradient, got {solver!r}")
        if not isinstance(row_memory_gib, int | float) or not row_memory_gib >= 0:
            raise SettingError(f"row_memory_gib must be a number ≥ 0, got {row_memory_gib!r}")
        if capturable and solver not in ("auto", "cholesky"):
            raise SettingError(f"solver {solver!r} iterates until a value says so: capturable takes 'cholesky' only")
        self._solver = "cholesky" if capturable else solver
        self._capturable = capturable
        self._linearize = Linearizer(row_memory_gib * 2**30, by_values=not capturable, choose=choose)
        self._workspace = Workspace()

    def evaluation(self) -> AbstractContextManager[None]:
        """What the residuals are to be computed within."""
        return contextlib.nullcontext() if self._solver in ("auto", "cholesky") else twice_differentiable()

    def __call__(
        self,
        evaluate: Callable[[], Tensor],
        parameters: dict[Tensor, str],
        sample_weights: Tensor | None,
        damping: float | Tensor,
        start: Tensor | None,
    ) -> tuple[Tensor, LinearSystem]:
        """The residuals and the linear system.

        Args:
            evaluate: Returns the residuals (n, ...), with their graph.
            parameters: The parameters and their names.
            sample_weights: (n,) or None.
            damping: Of the first solution that will be asked for.
            start: The last solution, to begin the next with.

        Raises:
            ResidualsError: The residuals are not what they should be.
            NonFiniteError: The residuals hold NaN or infinity.
            UnsupportedError: The graph holds something that has no exact treatment.
            SettingError: The weights are out of range, or the solver needs damping.
        """
        residuals = evaluate()
        with one_backward():
            iterative = self._iterative(residuals, parameters, damping)
            if iterative is not None:
                try:
                    return residuals, self._matrix_free(residuals, parameters, sample_weights, iterative, start)
                except UnsupportedError:
                    if self._solver != "auto":
                        raise
            return residuals, self._assembled(residuals, parameters, sample_weights)

    def _iterative(
        self, residuals: Tensor, parameters: Iterable[Tensor], damping: float | Tensor
    ) -> ConjugateGradient | None:
        """The settings of the conjugate gradient method, if it is the one to use."""
        if self._solver == "cholesky":
            return None
        if self._solver == "auto":
            large = isinstance(residuals, Tensor) and _is_large(residuals, parameters)
            return ConjugateGradient() if large and damping > 0 else None
        if damping == 0:
            raise SettingError(
                "the conjugate gradient method needs damping > 0: without, the system may be singular and have no "
                "solution; solver='cholesky' takes the minimum-norm step there"
            )
        return ConjugateGradient() if self._solver == "cg" else self._solver

    def _assembled(self, residuals: Tensor, parameters: dict[Tensor, str], weights: Tensor | None) -> LinearSystem:
        jacobian = self._linearize(residuals, parameters)
        r = residuals.detach().reshape(-1)
        roots = None if weights is None else root_weights(weights, jacobian.rows, r, by_values=not self._capturable)
        solve = solve_on_device if self._capturable else solve_damped
        return AssembledSystem(jacobian, r, roots, self._workspace, solve)

    def _matrix_free(
        self,
        residuals: Tensor,
        parameters: dict[Tensor, str],
        weights: Tensor | None,
        settings: ConjugateGradient,
        start: Tensor | None,
    ) -> LinearSystem:
        operator = GramOperator.from_residuals(residuals, list(parameters))
        trace(residuals, parameters, by_sample=False)  # refuses what is hidden from autograd
        operator.product([torch.zeros_like(p) for p in parameters])  # refuses what has no second derivative
        r = residuals.detach().reshape(-1)
        roots = None if weights is None else root_weights(weights, operator.rows, r)

        def assemble() -> Tensor:
            return self._linearize(residuals, parameters).gram()

        start = start if settings.warm_start else None
        return MatrixFreeSystem(operator, list(parameters), r, roots, settings, start, assemble)


@contextlib.contextmanager
def one_backward() -> Iterator[None]:
    """Explains what comes of a closure that calls ``backward()`` itself.

    Raises:
        ResidualsError: The graph was freed before.
    """
    try:
        yield
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise ResidualsError("the closure must not call backward(): return the residuals, the step does it") from error


def _is_large(residuals: Tensor, parameters: Iterable[Tensor]) -> bool:
    rows = residuals.numel()
    if rows < FEWEST_ROWS:
        return False
    outputs = rows // residuals.shape[0]
    return rows > MOST_ROWS or rows**2 * outputs > SWITCH * sum(p.numel() for p in parameters)
