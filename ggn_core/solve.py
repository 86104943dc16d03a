"""The damped solve (G + damping·I) v = r in double precision, with fallbacks that never let a NaN through.

n·o is small next to the parameters, so double precision costs little; the Gram's condition number is that of the
Jacobian squared, so it is needed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import NonFiniteError
from .workspace import Workspace

__all__ = ["Solution", "factored", "rounding_error", "solve_damped", "substituted"]

JITTERS = (1.0, 100.0)  # relative to each diagonal entry, in units of the Gram's own rounding error

# Rows from which a single-precision factor with refinement is faster than a double-precision factor, on a CPU.
REFINED_FROM = 384
REFINEMENTS = 5  # one gains as many digits as single precision leaves beyond the condition number

# LAPACK on a CPU takes up to four times as long where all columns begin at multiples of a large power of two in memory,
# for then they compete for the same lines of the cache: at 128, 192, 256, … rows, the very sizes of batches. A few more
# rows end that. (At 1024 rows in single precision, 11.9 ms become 3.1; at 128, 0.13 become 0.05.)
PADDING = 4


@dataclass(frozen=True)
class Solution:
    """A solution and how it was found.

    Attributes:
        v: Shape (N,), float64.
        solver: "cholesky", "cholesky+jitter", "pseudo-inverse" or "cg".
        damping: As it was given; "cholesky+jitter" has enlarged the diagonal, relatively, by a few rounding errors as
            well.
        iterations: Of an iterative solver.
        relative_residual: ‖(G + damping·I) v − r‖ / ‖r‖ of an iterative solver.
        converged: Whether an iterative solver reached its tolerance.
    """

    v: Tensor
    solver: str
    damping: float | Tensor
    iterations: int | None = None
    relative_residual: float | None = None
    converged: bool = True


def solve_damped(
    gram: Tensor,
    residuals: Tensor,
    damping: float,
    precision: torch.dtype | None = None,
    workspace: Workspace | None = None,
) -> Solution:
    """Solves (G + damping·I) v = r.

    A Cholesky factorisation is trusted if it exists and the matrix is not singular to the precision in which G was
    computed. Otherwise a jitter as small as that precision is added if there is damping to begin with; an undamped
    singular system gets the minimum-norm least-squares solution, the limit of damping → 0.

    Args:
        gram: (N, N), symmetric positive semi-definite up to rounding, any floating dtype.
        residuals: (N,).
        damping: ≥ 0.
        precision: The dtype that G was computed in, if it has been converted since.
        workspace: Where the factors are held.

    Raises:
        NonFiniteError: The Gram matrix holds NaN or infinity.
    """
    matrix = gram.double()
    rhs = residuals.double()
    workspace = workspace or Workspace()
    scale = float(matrix.diagonal().amax())
    if not scale < float("inf"):  # a NaN or infinite cotangent always reaches the diagonal
        raise NonFiniteError("the Gram matrix holds NaN or infinity: the cotangents overflowed")
    size = gram.shape[0]
    noise = rounding_error(size, precision or gram.dtype)

    if size >= REFINED_FROM and damping > size * torch.finfo(torch.float32).eps * scale:
        v = _refined(matrix, rhs, damping, scale, precision or gram.dtype, workspace)
        if v is not None:
            return Solution(v, "cholesky", damping)
    for factor in (0.0, *JITTERS) if damping > 0 else (0.0,):
        # Damping above the rounding error of every entry makes all pivots trustworthy.
        v = _cholesky(matrix, rhs, damping, factor * noise, noise if noise * scale > damping else 0.0, workspace)
        if v is not None:
            return Solution(v, "cholesky+jitter" if factor else "cholesky", damping)
    return Solution(_pseudo_inverse(matrix, rhs, damping, noise * scale), "pseudo-inverse", damping)


def _refined(
    matrix: Tensor, rhs: Tensor, damping: float, scale: float, precision: torch.dtype, workspace: Workspace
) -> Tensor | None:
    """The solution by a single-precision factor, refined until more precision would make no difference, or None.

    Iterative refinement with the residual in double precision, and the stopping rule of LAPACK's dsposv,
    ‖r − A v‖ ≤ √N ε ‖A‖ ‖v‖; for ‖A‖ ‖v‖ a lower bound stands here. The v that passes is the exact solution of a
    system that differs from this one by √N ε, relatively. Where G was computed in single precision, its own rounding
    errors are far above that, and a thousandth of its ε will do.
    """
    factor, info = factored(matrix, damping, 0.0, torch.float32, workspace)
    if int(info) != 0:
        return None
    tolerance = max(math.sqrt(len(rhs)) * torch.finfo(torch.float64).eps, torch.finfo(precision).eps / 1000)
    size = float(torch.linalg.vector_norm(rhs))
    v, remaining = torch.zeros_like(rhs), rhs
    for _ in range(1 + REFINEMENTS):
        v = v + substituted(factor, remaining.float())
        remaining = torch.addmv(rhs, matrix, v, alpha=-1).add_(v, alpha=-damping)
        small = tolerance * max(size, (scale + damping) * float(torch.linalg.vector_norm(v)))
        if float(torch.linalg.vector_norm(remaining)) <= small:
            return v
    return None


def _cholesky(
    matrix: Tensor, rhs: Tensor, damping: float, jitter: float, noise: float, workspace: Workspace
) -> Tensor | None:
    """The solution, or None if the matrix is not positive definite beyond its own rounding error.

    Pivots are held against their own diagonal entry, not against the largest: Cholesky does not care how rows are
    scaled, so a penalty of 10⁸ on one residual takes nothing from the others.
    """
    factor, info = factored(matrix, damping, jitter, torch.float64, workspace)
    if int(info) != 0:
        return None
    if noise:
        # Damping above the rounding error of an entry makes its pivot trustworthy, however small beside the entry.
        diagonal = (matrix.diagonal() + damping) * (1 + jitter)
        pivots = factor.diagonal()[: len(diagonal)].square()
        trustworthy = (pivots > noise * diagonal) | (noise * diagonal <= damping)
        if not bool(trustworthy.all()):
            return None
    return substituted(factor, rhs)


def rounding_error(size: int, precision: torch.dtype) -> float:
    """Of the entries of a Gram matrix of that many rows, relative, at the worst."""
    return size * torch.finfo(precision).eps


def factored(
    matrix: Tensor, damping: float | Tensor, jitter: float | Tensor, dtype: torch.dtype, workspace: Workspace
) -> tuple[Tensor, Tensor]:
    """The Cholesky factor of the damped matrix, and LAPACK's info: 0 if there is one.

    The damping is added to the diagonal, the jitter enlarges it relatively. Where ``PADDING`` helps, the factor is that
    of the matrix with so many rows and columns of the identity after it.
    """
    size, device = len(matrix), matrix.device
    padded = _padded(size, device)
    damped = workspace.square(f"damped in {dtype}", padded, dtype, device)
    damped[:size, :size].copy_(matrix)
    diagonal = damped.diagonal()
    diagonal[:size].add_(damping)
    if isinstance(jitter, Tensor) or jitter:
        diagonal[:size].mul_(1 + jitter)
    if padded > size:
        damped[size:].zero_()  # the lower triangle is all that is read
        diagonal[size:].fill_(1)
    factor = workspace.square(f"factor in {dtype}", padded, dtype, device).T  # column by column, as LAPACK writes it
    info = torch.empty((), dtype=torch.int32, device=device)
    torch.linalg.cholesky_ex(damped, out=(factor, info))
    return factor, info


def substituted(factor: Tensor, rhs: Tensor) -> Tensor:
    """The solution (N,) of L Lᵀ v = rhs, for a factor by ``factored``. torch.cholesky_solve would copy L first."""
    size, padding = len(rhs), len(factor) - len(rhs)
    column = torch.nn.functional.pad(rhs, (0, padding)).unsqueeze(1) if padding else rhs.unsqueeze(1)
    half = torch.linalg.solve_triangular(factor, column, upper=False)
    v: Tensor = torch.linalg.solve_triangular(factor.T, half, upper=True).squeeze(1)
    return v[:size]


def _padded(size: int, device: torch.device) -> int:
    return size + PADDING if device.type == "cpu" and size >= 128 and size % 64 == 0 else size


def _pseudo_inverse(matrix: Tensor, rhs: Tensor, damping: float, noise: float) -> Tensor:
    """The minimum-norm solution: eigenvalues within rounding error of zero count as zero."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    kept = eigenvalues > noise
    inverse = torch.where(kept, 1 / (torch.where(kept, eigenvalues, 1) + damping), 0)
    solution: Tensor = vectors @ (inverse * (vectors.T @ rhs))
    return solution
