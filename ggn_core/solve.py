"""The damped solve (G + damping·I) v = r in float64, with fallbacks that never let a NaN through.

n·o is small next to the parameters, so double precision costs little; the Gram's condition number is that of the
Jacobian squared, so it is needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import NonFiniteError

__all__ = ["Solution", "solve_damped"]

JITTERS = (1.0, 100.0)  # relative to each diagonal entry, in units of the Gram's own rounding error


@dataclass(frozen=True)
class Solution:
    """A solution and how it was found.

    Attributes:
        v: Shape (N,), float64.
        solver: "cholesky", "cholesky+jitter", "pseudo-inverse" or "cg".
        damping: The damping; "cholesky+jitter" has enlarged the diagonal, relatively, by a few rounding errors as well.
        iterations: Of an iterative solver.
        relative_residual: ‖(G + damping·I) v − r‖ / ‖r‖ of an iterative solver.
        converged: Whether an iterative solver reached its tolerance.
    """

    v: Tensor
    solver: str
    damping: float
    iterations: int | None = None
    relative_residual: float | None = None
    converged: bool = True


def solve_damped(gram: Tensor, residuals: Tensor, damping: float, precision: torch.dtype | None = None) -> Solution:
    """Solves (G + damping·I) v = r.

    A Cholesky factorisation is trusted if it exists and the matrix is not singular to the precision in which G was
    computed. Otherwise a jitter as small as that precision is added if there is damping to begin with; an undamped
    singular system gets the minimum-norm least-squares solution, the limit of damping → 0.

    Args:
        gram: (N, N), symmetric positive semi-definite up to rounding, any floating dtype.
        residuals: (N,).
        damping: ≥ 0.
        precision: The dtype that G was computed in, if it has been converted since.

    Raises:
        NonFiniteError: The Gram matrix holds NaN or infinity.
    """
    matrix = gram.double()
    rhs = residuals.double()
    scale = float(matrix.diagonal().amax())
    if not scale < float("inf"):  # a NaN or infinite cotangent always reaches the diagonal
        raise NonFiniteError("the Gram matrix holds NaN or infinity: the cotangents overflowed")
    noise = (
        gram.shape[0] * torch.finfo(precision or gram.dtype).eps
    )  # relative rounding error of G's entries, at the worst

    for factor in (0.0, *JITTERS) if damping > 0 else (0.0,):
        # Damping above the rounding error of every entry makes all pivots trustworthy.
        v = _cholesky(matrix, rhs, damping, factor * noise, noise if noise * scale > damping else 0.0)
        if v is not None:
            return Solution(v, "cholesky+jitter" if factor else "cholesky", damping)
    return Solution(_pseudo_inverse(matrix, rhs, damping, noise * scale), "pseudo-inverse", damping)


def _cholesky(matrix: Tensor, rhs: Tensor, damping: float, jitter: float, noise: float) -> Tensor | None:
    """The solution, or None if the matrix is not positive definite beyond its own rounding error.

    Pivots are held against their own diagonal entry, not against the largest: Cholesky does not care how rows are
    scaled, so a penalty of 10⁸ on one residual takes nothing from the others.
    """
    damped = matrix.clone()
    diagonal = damped.diagonal()
    diagonal.add_(damping)
    if jitter:
        diagonal.mul_(1 + jitter)
    factor, info = torch.linalg.cholesky_ex(damped)
    if int(info) != 0:
        return None
    if noise:
        # Damping above the rounding error of an entry makes its pivot trustworthy, however small beside the entry.
        trustworthy = (factor.diagonal().square() > noise * diagonal) | (noise * diagonal <= damping)
        if not bool(trustworthy.all()):
            return None
    return torch.cholesky_solve(rhs.unsqueeze(1), factor).squeeze(1)


def _pseudo_inverse(matrix: Tensor, rhs: Tensor, damping: float, noise: float) -> Tensor:
    """The minimum-norm solution: eigenvalues within rounding error of zero count as zero."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    kept = eigenvalues > noise
    inverse = torch.where(kept, 1 / (torch.where(kept, eigenvalues, 1) + damping), 0)
    solution: Tensor = vectors @ (inverse * (vectors.T @ rhs))
    return solution
