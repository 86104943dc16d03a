"""The damped solve and its fallbacks, against closed forms."""

import pytest
import torch

from ggn_core import NonFiniteError
from ggn_core.solve import solve_damped


def _gram(eigenvalues: list[float], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64))
    return (basis * torch.tensor(eigenvalues, dtype=torch.float64) @ basis.T).to(dtype)


RHS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("damping", [0.0, 1e-3, 2.0])
def test_well_conditioned(damping: float) -> None:
    gram = _gram([3.0, 1.0, 0.1])
    solution = solve_damped(gram, RHS, damping)
    expected = torch.linalg.solve(gram + damping * torch.eye(3, dtype=torch.float64), RHS)
    assert torch.allclose(solution.v, expected, rtol=1e-10)
    assert (solution.solver, solution.damping) == ("cholesky", damping)


def test_singular_without_damping_is_the_pseudo_inverse() -> None:
    gram = _gram([3.0, 1.0, 0.0])
    solution = solve_damped(gram, RHS, 0.0)
    assert solution.solver == "pseudo-inverse"
    assert torch.allclose(solution.v, torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ RHS, rtol=1e-8)


def test_singular_with_damping_needs_no_fallback() -> None:
    gram = _gram([3.0, 0.0, 0.0])
    solution = solve_damped(gram, RHS, 0.1)
    assert solution.solver == "cholesky"
    assert torch.allclose(
        solution.v, torch.linalg.solve(gram + 0.1 * torch.eye(3, dtype=torch.float64), RHS), rtol=1e-10
    )


def test_noise_in_a_float32_gram_is_not_taken_for_signal() -> None:
    """A float32 Gram has eigenvalues that are rounding errors, some negative; undamped, they must not be inverted."""
    gram = _gram([1000.0, 1.0, 0.0], torch.float32)
    solution = solve_damped(gram, RHS, 0.0)
    expected = torch.linalg.pinv(_gram([1000.0, 1.0, 0.0]), hermitian=True, rtol=1e-6) @ RHS
    assert solution.solver == "pseudo-inverse"
    assert torch.allclose(solution.v, expected, rtol=1e-3)


def test_damping_below_the_noise_gets_a_jitter() -> None:
    gram = _gram([1000.0, 1.0, -1e-5], torch.float32)
    solution = solve_damped(gram, RHS, 1e-9)
    assert solution.solver == "cholesky+jitter"
    assert bool(torch.isfinite(solution.v).all())


@pytest.mark.parametrize(("dtype", "weight"), [(torch.float32, 1e3), (torch.float64, 1e8)])
def test_a_heavily_weighted_residual_takes_nothing_from_the_others(dtype: torch.dtype, weight: float) -> None:
    """Row and column weighted, as by a penalty: badly scaled, and well posed. Solved exactly in scaled variables."""
    scale = torch.tensor([1.0, 1.0, weight], dtype=torch.float64)
    gram = _gram([3.0, 1.0, 0.5]) * scale * scale[:, None]
    solution = solve_damped(gram.to(dtype), RHS, 0.3)
    exact = torch.linalg.solve(_gram([3.0, 1.0, 0.5]) + torch.diag(0.3 / scale**2), RHS / scale) / scale
    assert solution.solver == "cholesky"
    assert torch.allclose(solution.v, exact, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=0)


def test_zero_gram() -> None:
    """No parameter moves any output (a zero head before its first step, say): the minimum-norm answer is zero."""
    solution = solve_damped(torch.zeros(3, 3), RHS, 0.0)
    assert torch.equal(solution.v, torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(solve_damped(torch.zeros(3, 3), RHS, 0.5).v, RHS / 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gram_is_an_error(bad: float) -> None:
    gram = _gram([1.0, 1.0, 1.0])
    gram[1, 1] = bad
    with pytest.raises(NonFiniteError, match="Gram"):
        solve_damped(gram, RHS, 0.1)
