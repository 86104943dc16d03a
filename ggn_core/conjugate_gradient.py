"""The damped system by preconditioned conjugate gradients, from products with the Gram matrix alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import SettingError
from .nystrom import Nystrom
from .solve import Solution

__all__ = ["ConjugateGradient", "solve_iteratively"]


@dataclass(frozen=True)
class ConjugateGradient:
    """Settings of the iterative solver, ``GGN(solver=ConjugateGradient(…))``.

    The vectors are float64, the products in the model's precision: there lies the limit of what float32 can reach, and
    a solution that meets it counts as converged.

    Attributes:
        tolerance: Of ‖(G + damping·I) v − rhs‖ / ‖rhs‖, > 0.
        max_iterations: A product with the Gram matrix each, ≥ 1.
        rank: Of the randomized Nyström preconditioner, ≥ 1; costs as many products once a step. More help where the
            Gram matrix has more eigenvalues above the damping.
        warm_start: Whether to start from the last step's solution, where the shapes agree and it is nearer than zero.
        fallback_rows: Up to this many rows n·o, a system that has not converged is solved again, densely.
    """

    tolerance: float = 1e-6
    max_iterations: int = 500
    rank: int = 50
    warm_start: bool = True
    fallback_rows: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise SettingError(f"tolerance must be a number between 0 and 1, got {self.tolerance}")
        for name, least in (("max_iterations", 1), ("rank", 1), ("fallback_rows", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise SettingError(f"{name} must be a whole number ≥ {least}, got {value!r}")


def solve_iteratively(
    product: Callable[[Tensor], Tensor],
    rhs: Tensor,
    damping: float,
    preconditioner: Nystrom,
    settings: ConjugateGradient,
    eps: float,
    start: Tensor | None = None,
) -> Solution:
    """Solves (G + damping·I) v = rhs.

    Args:
        product: v ↦ G v, float64.
        rhs: (N,), float64.
        damping: > 0.
        preconditioner: Of G.
        settings: When to stop.
        eps: Relative precision in which the products are computed.
        start: A first guess, (N,).
    """

    def residual(v: Tensor) -> Tensor:
        return rhs - product(v) - damping * v

    scale = float(torch.linalg.vector_norm(rhs))
    if scale == 0:
        return Solution(torch.zeros_like(rhs), "cg", damping, iterations=0, relative_residual=0.0)
    v, r = torch.zeros_like(rhs), rhs
    if start is not None:
        guessed = residual(start)
        if float(torch.linalg.vector_norm(guessed)) < scale:  # else the last step's system had little to do with this
            v, r = start.clone(), guessed
    iterations = 0
    z = preconditioner.precondition(r, damping)
    direction, rz = z, r @ z
    while iterations < settings.max_iterations and float(torch.linalg.vector_norm(r)) > settings.tolerance * scale:
        image = product(direction) + damping * direction
        curvature = float(direction @ image)
        if not 0 < curvature < float("inf"):  # rounding errors have eaten what was left to gain
            break
        iterations += 1
        step = rz / curvature
        v, r = v + step * direction, r - step * image
        z = preconditioner.precondition(r, damping)
        rz, previous = r @ z, rz
        direction = z + (rz / previous) * direction
    # The recursion for r drifts from the truth by rounding: what is reported is the residual itself.
    relative = float(torch.linalg.vector_norm(residual(v))) / scale
    reachable = eps * float(preconditioner.values[0]) * float(torch.linalg.vector_norm(v)) / scale
    converged = relative <= max(settings.tolerance, reachable)
    return Solution(v, "cg", damping, iterations, relative, converged)
