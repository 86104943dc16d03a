r"""A randomized Nyström approximation of a positive semi-definite operator, as a preconditioner.

From products with a random test matrix Ω of ℓ orthonormal columns, Y = A Ω,

.. math:: A ≈ Y (Ω^\top Y)^{-1} Y^\top = U Λ U^\top .

With μ the damping, the system A + μI is preconditioned by
P⁻¹ = (λ_ℓ + μ) U (Λ + μ)⁻¹ Uᵀ + (I − U Uᵀ): the ℓ leading eigenvalues become about λ_ℓ + μ, so the condition number
falls from (λ₁ + μ)/μ to about (λ_ℓ + μ)/μ.

Source: Frangella, Tropp, Udell, arXiv 2110.02820.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import NonFiniteError

__all__ = ["Nystrom", "approximate"]

SEED = 0  # the same test matrix at every step: nothing to save, and a resumed run repeats the uninterrupted one


@dataclass(frozen=True)
class Nystrom:
    """U Λ Uᵀ.

    Attributes:
        vectors: U, (N, ℓ), orthonormal columns, float64.
        values: Λ's diagonal, (ℓ,), ≥ 0, descending.
    """

    vectors: Tensor
    values: Tensor

    def precondition(self, r: Tensor, damping: float) -> Tensor:
        """P⁻¹ r for r of shape (N,)."""
        coordinates = self.vectors.T @ r  # (ℓ,)
        shrunk = (self.values[-1] + damping) / (self.values + damping) - 1
        return r + self.vectors @ (shrunk * coordinates)


def approximate(product: Callable[[Tensor], Tensor], size: int, rank: int, eps: float, device: torch.device) -> Nystrom:
    """The approximation of rank ``rank``, at the price of that many products.

    Args:
        product: X ↦ A X for X of shape (N, ℓ), float64.
        size: N.
        rank: ℓ, from 1 to N.
        eps: Relative precision in which the products are computed.
        device: Where to compute.

    Raises:
        NonFiniteError: A product held NaN or infinity.
    """
    generator = torch.Generator().manual_seed(SEED)
    test = torch.randn(size, rank, generator=generator, dtype=torch.float64).to(device)
    test, _ = torch.linalg.qr(test)
    sketch = product(test)  # (N, ℓ)
    if not bool(torch.isfinite(sketch).all()):
        raise NonFiniteError("a product with the Gram matrix holds NaN or infinity: the cotangents overflowed")
    # A shift above the rounding errors keeps the core positive definite; it is taken off the eigenvalues again.
    shift = float(eps * size**0.5 * torch.linalg.matrix_norm(sketch)) + torch.finfo(torch.float64).tiny
    sketch = sketch + shift * test
    core = test.T @ sketch  # (ℓ, ℓ)
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    # The core's eigenvalues are at least the shift, but for rounding: what is below carries no information.
    root = sketch @ (vectors * values.clamp(min=shift).rsqrt())  # (N, ℓ): A + shift ≈ root rootᵀ
    left, singular, _ = torch.linalg.svd(root, full_matrices=False)
    return Nystrom(left, (singular.square() - shift).clamp(min=0))
