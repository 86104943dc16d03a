"""The damped solve and its fallbacks, against closed forms."""

import math

import pytest
import torch

from ggn_core import NonFiniteError
from ggn_core.capturable import solve_on_device
from ggn_core.solve import PADDING, REFINED_FROM, _refined, solve_damped
from ggn_core.workspace import Workspace


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


MANY = REFINED_FROM + 44


def _many(condition: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A Gram matrix large enough for the single-precision factor, its eigenvalues from 1 down to 1/condition."""
    gram = _gram(torch.logspace(0, -math.log10(condition), MANY, dtype=torch.float64).tolist())
    return gram, torch.randn(MANY, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("precision", "error"), [(torch.float64, 2.2e-16), (torch.float32, 1.2e-10)])
@pytest.mark.parametrize("damping", [1.0, 1e-2, 1e-4])
def test_a_single_precision_factor_is_refined(damping: float, precision: torch.dtype, error: float) -> None:
    """To double precision, or to a thousandth of the error that single precision has left in the Gram matrix."""
    gram, rhs = _many(1e12)
    damped = gram + damping * torch.eye(MANY, dtype=torch.float64)
    refined = _refined(gram, rhs, damping, float(gram.diagonal().amax()), precision, Workspace())
    assert refined is not None
    expected = torch.linalg.solve(damped, rhs)
    # A backward stable solution is within ε ‖A‖ ‖A⁻¹‖ of the true one, up to a modest factor.
    assert (refined - expected).norm() / expected.norm() < 1e2 * error / damping
    assert torch.equal(solve_damped(gram, rhs, damping, precision).v, refined)


@pytest.mark.parametrize("size", [127, 128, 192, 384, 448])
@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_a_factor_with_a_few_rows_of_the_identity_solves_the_same_system(size: int, damping: float) -> None:
    """Sizes at which LAPACK is slow are padded; what stood in the workspace before is no part of the system."""
    gram, rhs = _gram(torch.linspace(0.5, 2, size).tolist()), torch.linspace(-1, 1, size, dtype=torch.float64)
    workspace = Workspace()
    for dtype in (torch.float32, torch.float64):
        for name in ("damped", "factor"):
            workspace.square(f"{name} in {dtype}", size + PADDING, dtype, gram.device).fill_(math.nan)
    expected = torch.linalg.solve(gram + damping * torch.eye(size, dtype=torch.float64), rhs)
    for precision in (torch.float64, torch.float32):
        solution = solve_damped(gram, rhs, damping, precision, workspace)
        assert solution.solver == "cholesky"
        assert (solution.v - expected).norm() < 1e-8 * expected.norm()
    on_device = solve_on_device(gram, rhs, damping or 1e-30, workspace=workspace)
    assert (on_device.v - expected).norm() < 1e-8 * expected.norm()


def test_a_padded_factor_does_not_make_a_singular_matrix_trustworthy() -> None:
    gram, rhs = _gram([0.0] + [1.0] * 127), torch.ones(128, dtype=torch.float64)
    solution = solve_damped(gram, rhs, 0.0)
    assert solution.solver == "pseudo-inverse"
    assert torch.allclose(solution.v, torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ rhs, rtol=1e-8)


def test_where_single_precision_cannot_see_the_damping_the_factor_is_in_double_precision() -> None:
    gram, rhs = _many(1e12)
    damping = 1e-8
    assert _refined(gram, rhs, damping, float(gram.diagonal().amax()), torch.float64, Workspace()) is None
    solution = solve_damped(gram, rhs, damping)
    expected = torch.linalg.solve(gram + damping * torch.eye(MANY, dtype=torch.float64), rhs)
    assert solution.solver == "cholesky"
    assert torch.allclose(solution.v, expected, rtol=1e-5)


def test_the_workspace_is_used_again_and_grows_with_the_batch() -> None:
    """What stood in its matrices before, of any size, changes nothing."""
    workspace = Workspace()
    for size, damping in [(3, 0.1), (3, 2.0), (5, 0.1), (MANY, 0.1), (MANY - 1, 0.1), (3, 0.1)]:
        gram, rhs = _gram(torch.linspace(1, 2, size).tolist()), torch.ones(size, dtype=torch.float64)
        for precision in (torch.float32, torch.float64):
            found = solve_damped(gram, rhs, damping, precision, workspace)
            assert torch.equal(found.v, solve_damped(gram, rhs, damping, precision).v)
    first = workspace.square("a", 5, torch.float32, torch.device("cpu"))
    assert workspace.square("a", 5, torch.float32, torch.device("cpu")) is first
    assert workspace.square("b", 5, torch.float32, torch.device("cpu")) is not first
    assert workspace.square("a", 5, torch.float64, torch.device("cpu")).dtype == torch.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gram_is_an_error(bad: float) -> None:
    gram = _gram([1.0, 1.0, 1.0])
    gram[1, 1] = bad
    with pytest.raises(NonFiniteError, match="Gram"):
        solve_damped(gram, RHS, 0.1)
