"""The matrix-free solver: as exact as it says, and it says so where it is not."""

import copy
import warnings

import pytest
import torch
from cases import CASES, Case
from compared import flat
from torch import Tensor, nn

from ggn_core import GGN, ConjugateGradient, NonFiniteError, ResidualsError, SettingError, UnsupportedError
from ggn_core import solver as solver_module
from ggn_core.conjugate_gradient import solve_iteratively
from ggn_core.nystrom import approximate
from ggn_core.reference import dense_step

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

EPS = torch.finfo(torch.float64).eps


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _mlp(outputs: int = 1, width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def _gram(eigenvalues: Tensor) -> Tensor:
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64))
    return basis * eigenvalues @ basis.T


# the step


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_step_equals_the_dense_one(case: Case) -> None:
    model, inputs = case.model(2).double(), case.inputs(5)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    targets = torch.randn_like(model(inputs).detach())
    before, change = flat(model), dense_step(model, inputs, targets, lr=0.7, damping=0.3)
    optimizer = GGN(model, lr=0.7, damping=0.3, solver=ConjugateGradient(tolerance=1e-12, rank=3, fallback_rows=0))
    if case.name == "embedding-bag":
        with pytest.raises(UnsupportedError, match="second derivatives"):
            optimizer.step(lambda: model(inputs) - targets)
        return
    optimizer.step(lambda: model(inputs) - targets)
    assert optimizer.info is not None
    assert (optimizer.info.solver, optimizer.info.converged) == ("cg", True)
    assert float((flat(model) - before - change).norm() / change.norm()) < 1e-8
    assert abs(float(optimizer.info.step_norm) * 0.7 / float(change.norm()) - 1) < 1e-8


def _loop_step(model: nn.Module, x: Tensor, y: Tensor, damping: float) -> Tensor:
    """The step of the batch as a whole, from a plain loop over residuals on a copy."""
    twin = copy.deepcopy(model)
    residuals = (twin(x) - y).reshape(-1)
    parameters = list(twin.parameters())
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters, retain_graph=True)])
        for value in residuals
    ]
    jacobian = torch.stack(rows)
    damped = jacobian @ jacobian.T + damping * torch.eye(len(rows)).double()
    return -jacobian.T @ torch.linalg.solve(damped, residuals.detach())


@pytest.mark.parametrize("max_iterations", [200, 1])
def test_batch_normalization_in_training_mode(max_iterations: int) -> None:
    """Also where the solver does not converge, and the Gram matrix has to be assembled from products."""
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).double()
    x, y = torch.randn(12, 3).double(), torch.randn(12, 2).double()
    settings = ConjugateGradient(tolerance=1e-11, rank=2, max_iterations=max_iterations)
    optimizer = GGN(model, damping=0.1, solver=settings)
    for _ in range(2):
        before, change = flat(model), _loop_step(model, x, y, 0.1)
        optimizer.step(lambda: model(x) - y)
        assert float((flat(model) - before - change).norm() / change.norm()) < 1e-8
    assert optimizer.info is not None
    assert optimizer.info.solver == ("cg" if max_iterations == 200 else "cg, then cholesky")
    assert int(model[1].num_batches_tracked) == 2


def test_fused_attention_is_computed_in_the_plain_way() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    x = torch.randn(4, 5, 8).double()
    before, change = flat(model), dense_step(model, x, torch.zeros(4, 5, 8).double(), lr=1.0, damping=2.0)
    GGN(model, damping=2.0, solver=ConjugateGradient(tolerance=1e-10)).step(lambda: model(x))
    assert float((flat(model) - before - change).norm() / change.norm()) < 1e-7


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients_of_embeddings(momentum: float) -> None:
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Flatten(), nn.Linear(12, 1)).double()
    twin = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(12, 1)).double()
    twin.load_state_dict(model.state_dict())
    x = torch.randint(0, 6, (5, 3))
    sparse = GGN(model, momentum=momentum, solver=ConjugateGradient(tolerance=1e-12))
    dense = GGN(twin, momentum=momentum)
    for _ in range(2):
        sparse.step(lambda: model(x) - 1)
        dense.step(lambda: twin(x) - 1)
    assert torch.allclose(flat(model), flat(twin), rtol=1e-9)


def test_what_does_not_converge_falls_back_where_it_can_and_is_told_where_not() -> None:
    model = _mlp()
    x, y = torch.randn(40, 3).double(), torch.randn(40, 1).double()
    before, change = flat(model), dense_step(model, x, y, lr=1.0, damping=1e-6)
    hopeless = ConjugateGradient(max_iterations=1, rank=1)
    optimizer = GGN(model, damping=1e-6, solver=hopeless)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: model(x) - y)
    info = optimizer.info
    assert info is not None
    assert (info.solver, info.iterations, info.converged) == ("cg, then cholesky", 1, True)
    assert info.relative_residual is not None
    assert info.relative_residual > 1e-6
    assert float((flat(model) - before - change).norm() / change.norm()) < 1e-6

    optimizer = GGN(model, damping=1e-6, solver=ConjugateGradient(max_iterations=1, rank=1, fallback_rows=39))
    with pytest.warns(RuntimeWarning, match="stopped after 1 iterations") as caught:
        optimizer.step(lambda: model(x) - y)
    assert caught[0].filename == __file__
    info = optimizer.info
    assert info is not None
    assert (info.solver, info.converged) == ("cg", False)


def test_float32_converges_as_far_as_float32_goes() -> None:
    model = _mlp(width=64)
    x, y = torch.randn(100, 3).double(), torch.randn(100, 1).double()
    change = dense_step(model, x, y, lr=1.0, damping=1.0)
    model = model.float()
    before = flat(model)
    optimizer = GGN(model, damping=1.0, solver=ConjugateGradient(fallback_rows=0))
    optimizer.step(lambda: model(x.float()) - y.float())
    assert optimizer.info is not None
    assert optimizer.info.converged
    assert float((flat(model) - before - change).norm() / change.norm()) < 1e-4


def test_a_warm_start_saves_iterations() -> None:
    model = _mlp()
    x, y = torch.randn(60, 3).double(), torch.randn(60, 1).double()

    def iterations(warm_start: bool) -> int | None:
        twin = copy.deepcopy(model)
        settings = ConjugateGradient(rank=2, warm_start=warm_start, fallback_rows=0)
        optimizer = GGN(twin, lr=1e-4, damping=0.01, solver=settings)
        for _ in range(2):
            optimizer.step(lambda: twin(x) - y)
        assert optimizer.info is not None
        return optimizer.info.iterations

    warm, cold = iterations(True), iterations(False)
    assert warm is not None
    assert cold is not None
    assert warm < 0.8 * cold


def test_a_warm_start_from_another_shape_is_none() -> None:
    model = _mlp()
    optimizer = GGN(model, solver="cg")
    for samples in (6, 9, 6):
        x, y = torch.randn(samples, 3).double(), torch.randn(samples, 1).double()
        before, change = flat(model), dense_step(model, x, y, lr=1.0, damping=0.3)
        optimizer.step(lambda x=x, y=y: model(x) - y)
        assert float((flat(model) - before - change).norm() / change.norm()) < 1e-4


# choosing


def test_auto_takes_it_for_many_rows_with_damping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a size at all, where it is cheaper by count, and above a size in any case."""
    monkeypatch.setattr(solver_module, "FEWEST_ROWS", 20)
    monkeypatch.setattr(solver_module, "MOST_ROWS", 60)
    monkeypatch.setattr(solver_module, "SWITCH", 10)
    model = _mlp(2)  # 98 parameters: 2 N² > 980 from N = 23 on

    def solver(samples: int, damping: float = 0.3, model: nn.Module = model) -> str:
        x = torch.randn(samples, 3).double()
        optimizer = GGN(model, damping=damping)
        optimizer.step(lambda: model(x))
        assert optimizer.info is not None
        return optimizer.info.solver

    assert sum(p.numel() for p in model.parameters()) == 98
    assert [solver(samples) for samples in (9, 11, 12)] == ["cholesky", "cholesky", "cg"]
    assert solver(12, damping=0.0) != "cg"
    wide = _mlp(2, width=1000)
    assert [solver(samples, model=wide) for samples in (12, 30, 31)] == ["cholesky", "cholesky", "cg"]
    monkeypatch.setattr(solver_module, "FEWEST_ROWS", 25)
    assert solver(12) == "cholesky"


def test_auto_assembles_where_there_is_no_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_module, "FEWEST_ROWS", 0)
    monkeypatch.setattr(solver_module, "SWITCH", 0)
    model = nn.Sequential(nn.EmbeddingBag(6, 4), nn.Linear(4, 1)).double()
    x = torch.randint(0, 6, (5, 3))
    optimizer = GGN(model)
    optimizer.step(lambda: model(x))
    assert optimizer.info is not None
    assert optimizer.info.solver == "cholesky"


class Hidden(nn.Module):
    """A custom function that closes over a parameter instead of taking it as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.hidden = nn.Linear(3, 2), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden

        class Scale(torch.autograd.Function):
            @staticmethod
            def forward(ctx: object, z: Tensor) -> Tensor:
                return z * hidden.detach()

            @staticmethod
            def backward(ctx: object, g: Tensor) -> Tensor:
                return g * hidden.detach()

        return Scale.apply(self.seen(x))


def test_refusals() -> None:
    model, x = _mlp(), torch.randn(5, 3).double()
    with pytest.raises(SettingError, match="needs damping > 0"):
        GGN(model, damping=0.0, solver="cg").step(lambda: model(x))
    hidden = Hidden().double()
    with pytest.raises(UnsupportedError, match="'hidden'"):
        GGN(hidden, solver="cg").step(lambda: hidden(x))
    with pytest.raises(SettingError, match="solver must be 'auto'"):
        GGN(model, solver="lu")  # type: ignore[arg-type]


def test_overflow_and_misuse_leave_the_parameters_alone() -> None:
    model = _mlp().float()
    x = torch.randn(5, 3)
    before = flat(model)
    with pytest.raises(NonFiniteError, match="product with the Gram matrix"):
        GGN(model, solver="cg").step(lambda: (model(x) * 1e30) * 1e-30 * 1e25)

    def backward() -> Tensor:
        residuals = model(x)
        residuals.sum().backward()
        return residuals

    with pytest.raises(ResidualsError, match="must not call backward"):
        GGN(model, solver="cg").step(backward)
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"max_iterations": 0}, "max_iterations must be a whole number ≥ 1"),
        ({"rank": 1.5}, "rank must be a whole number ≥ 1"),
        ({"fallback_rows": -1}, "fallback_rows must be"),
    ],
)
def test_bad_settings(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        ConjugateGradient(**settings)  # type: ignore[arg-type]


# the pieces


def test_nystrom_is_exact_for_a_matrix_of_its_rank() -> None:
    gram = _gram(torch.tensor([5.0, 2.0, 1.0] + [0.0] * 17, dtype=torch.float64))
    found = approximate(lambda v: gram @ v, 20, 4, EPS, gram.device)
    assert torch.allclose(found.vectors * found.values @ found.vectors.T, gram, atol=1e-12)
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(4).double(), atol=1e-12)


def test_the_preconditioner_is_the_papers_formula() -> None:
    gram = _gram(torch.logspace(3, -3, 12, dtype=torch.float64))
    found = approximate(lambda v: gram @ v, 12, 5, EPS, gram.device)
    u, values, r = found.vectors, found.values, torch.randn(12).double()
    inside = (values[-1] + 0.1) * u @ torch.diag(1 / (values + 0.1)) @ u.T
    expected = (inside + torch.eye(12).double() - u @ u.T) @ r
    assert torch.allclose(found.precondition(r, 0.1), expected, rtol=1e-10)


def test_the_preconditioner_saves_iterations() -> None:
    gram = _gram(torch.logspace(4, -4, 200, dtype=torch.float64))
    rhs = torch.randn(200).double()

    def solve(rank: int) -> int | None:
        preconditioner = approximate(lambda v: gram @ v, 200, rank, EPS, gram.device)
        settings = ConjugateGradient(max_iterations=1000)
        solution = solve_iteratively(lambda v: gram @ v, rhs, 1e-1, preconditioner, settings, EPS)
        expected = torch.linalg.solve(gram + 1e-1 * torch.eye(200).double(), rhs)
        assert solution.converged
        assert float((solution.v - expected).norm() / expected.norm()) < 1e-3
        return solution.iterations

    few, many = solve(150), solve(1)
    assert few is not None
    assert many is not None
    assert 4 * few < many


def test_zero_right_hand_side() -> None:
    gram = _gram(torch.ones(5, dtype=torch.float64))
    preconditioner = approximate(lambda v: gram @ v, 5, 2, EPS, gram.device)
    rhs = torch.zeros(5).double()
    solution = solve_iteratively(lambda v: gram @ v, rhs, 0.1, preconditioner, ConjugateGradient(), EPS)
    assert torch.equal(solution.v, rhs)
    assert (solution.iterations, solution.relative_residual) == (0, 0.0)


def test_zero_gram() -> None:
    """No parameter moves any output, as with a head of zeros and what lies before it frozen: v = r / damping."""
    preconditioner = approximate(torch.zeros_like, 5, 2, EPS, torch.device("cpu"))
    rhs = torch.randn(5).double()
    solution = solve_iteratively(torch.zeros_like, rhs, 0.5, preconditioner, ConjugateGradient(), EPS)
    assert torch.allclose(solution.v, 2 * rhs)
