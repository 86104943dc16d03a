"""What one step did."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["StepInfo"]


@dataclass(frozen=True)
class StepInfo:
    """What one step did. The tensors are scalars on the parameters' device; ``float()`` them to read.

    With sample weights ω, residuals and Jacobian rows count √ω-fold in every norm, and the loss is the weighted mean.

    Attributes:
        loss: Mean squared residual before the step.
        gradient_norm: ‖Jᵀ r‖, half the norm of the gradient of the summed squares.
        step_norm: ‖Δ‖, the norm of the direction: before the learning rates, and before ``step_length``. Weight decay
            is not part of it.
        damping: What was added to the Gram's diagonal; a jitter comes on top, see ``solve_damped``.
        solver: "cholesky", "cholesky+jitter", "pseudo-inverse", "cg", or, after a "cg" that did not converge, the name
            of the dense solver that took over as "cg, then cholesky" (or another of them).
        step_length: What the direction was multiplied by besides the learning rates: 1, unless ``max_step_norm`` or the
            search shortened it.
        accepted: Whether the parameters moved; False only if a search rejected every attempt, or found that the loss
            cannot resolve what there is to gain; a bool tensor where the step is capturable.
        attempts: Evaluations of the closure by the search; 0 without one.
        gain_ratio: Actual by predicted reduction of the loss at the last attempt; None without one.
        iterations: Of the conjugate gradient method; None for dense solvers.
        relative_residual: ‖(G + damping·I) v − rhs‖ / ‖rhs‖ of the iterative solution; None for dense solvers.
        converged: Whether the linear system was solved to its tolerance; always true for dense solvers.
        generic: Names of the parameters that went through the generic rule, exact and slow; ``explain`` tells why.
    """

    loss: Tensor
    gradient_norm: Tensor
    step_norm: Tensor
    damping: float | Tensor
    solver: str
    step_length: float = 1.0
    accepted: bool | Tensor = True
    attempts: int = 0
    gain_ratio: float | None = None
    iterations: int | None = None
    relative_residual: float | None = None
    converged: bool = True
    generic: tuple[str, ...] = ()
