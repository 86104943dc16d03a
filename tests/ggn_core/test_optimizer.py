"""GGN as an optimizer: closed forms, torch's habits (schedulers, state), and what it reports."""

import copy
import math
import weakref

import pytest
import torch
from compared import flat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ggn_core import GGN, SettingError
from ggn_core.reference import dense_gram, dense_jacobian, dense_step
from ggn_core.rules.convolution import ConvolutionUse
from ggn_core.rules.group_norm import GroupNormUse


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _mlp(outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, outputs)).double()


def _data(samples: int = 6, outputs: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 3).double(), torch.randn(samples, outputs).double()


def test_one_undamped_step_solves_a_linear_problem() -> None:
    model = nn.Linear(10, 1).double()
    x, y = torch.randn(6, 10).double(), torch.randn(6, 1).double()
    GGN(model, lr=1.0, damping=0.0).step(lambda: model(x) - y)
    assert float((model(x) - y).detach().norm()) < 1e-12


def test_a_linear_problem_gives_ridge_regression() -> None:
    """From zero, one step is kernel ridge regression: w = Xᵀ(XXᵀ + αI)⁻¹y, the same as (XᵀX + αI)⁻¹Xᵀy."""
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    x, y = torch.randn(20, 4).double(), torch.randn(20, 1).double()
    GGN(model, lr=1.0, damping=0.5).step(lambda: model(x) - y)
    ridge = torch.linalg.solve(x.T @ x + 0.5 * torch.eye(4).double(), x.T @ y)
    assert torch.allclose(model.weight.detach().T, ridge, rtol=1e-10, atol=0)


def test_the_papers_letters() -> None:
    """The step w − Jᵀ(λG + αI)⁻¹r is that with lr = 1/λ and damping = α/λ."""
    lam, alpha = 2.5, 0.7
    model = _mlp()
    x, y = _data()
    jacobian, gram = dense_jacobian(model, x), dense_gram(model, x)
    residuals = (model(x) - y).detach().reshape(-1)
    expected = flat(model) - jacobian.T @ torch.linalg.solve(lam * gram + alpha * torch.eye(6).double(), residuals)
    twin = copy.deepcopy(model)
    GGN(model, lr=1 / lam, damping=alpha / lam).step(lambda: model(x) - y)
    assert torch.allclose(flat(model), expected, rtol=1e-10, atol=1e-14)
    optimizer = GGN.from_paper(twin, lam=lam, alpha=alpha, momentum=0.5)
    optimizer.step(lambda: twin(x) - y)
    assert torch.allclose(flat(twin), expected, rtol=1e-10, atol=1e-14)
    assert optimizer.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("letters", "words"),
    [({"lam": 0.0, "alpha": 0.3}, "λ, must be"), ({"lam": 1.0, "alpha": -1.0}, "α, must be")],
)
def test_the_papers_letters_out_of_range(letters: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        GGN.from_paper(_mlp(), **letters)


def test_full_batch_convergence_is_fast() -> None:
    """Undamped full steps on an overparameterised network square the residual, roughly, at every step."""
    model = nn.Sequential(nn.Linear(3, 512), nn.Tanh(), nn.Linear(512, 1)).double()
    x, y = _data(8)
    optimizer = GGN(model, lr=1.0, damping=0.0)
    losses = [float(optimizer.step(lambda: model(x) - y)) for _ in range(6)]
    assert losses[-1] < 1e-25
    assert losses[0] > 1e-2


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 1)])
def test_residuals_of_any_trailing_shape(shape: tuple[int, ...]) -> None:
    model, twin = _mlp(), _mlp()
    twin.load_state_dict(model.state_dict())
    x, y = _data()
    GGN(model).step(lambda: (model(x) - y).view(shape))
    GGN(twin).step(lambda: twin(x) - y)
    assert torch.equal(flat(model), flat(twin))


def test_the_returned_loss_is_the_mean_squared_residual_before_the_step() -> None:
    model = _mlp(2)
    x, y = _data(outputs=2)
    expected = nn.functional.mse_loss(model(x), y).detach()
    loss = GGN(model).step(lambda: model(x) - y)
    assert not loss.requires_grad
    assert torch.allclose(loss, expected)


def test_info_tells_norms_damping_and_solver() -> None:
    model = _mlp()
    x, y = _data()
    jacobian, residuals = dense_jacobian(model, x), (model(x) - y).detach().reshape(-1)
    change = dense_step(model, x, y, lr=1.0, damping=0.2)
    optimizer = GGN(model, lr=0.5, damping=0.2)
    assert optimizer.info is None
    optimizer.step(lambda: model(x) - y)
    info = optimizer.info
    assert info is not None
    assert math.isclose(float(info.gradient_norm), float((jacobian.T @ residuals).norm()), rel_tol=1e-9)
    assert math.isclose(float(info.step_norm), float(change.norm()), rel_tol=1e-9)
    assert (info.damping, info.solver) == (0.2, "cholesky")


def test_torch_schedulers_drive_the_step_length() -> None:
    model, twin = _mlp(), _mlp()
    twin.load_state_dict(model.state_dict())
    x, y = _data()
    optimizer = GGN(model, lr=1.0, damping=0.3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for lr in (1.0, 0.5, 0.25):
        expected = flat(model) + dense_step(model, x, y, lr=lr, damping=0.3)
        optimizer.step(lambda: model(x) - y)
        scheduler.step()
        assert torch.allclose(flat(model), expected, rtol=1e-10, atol=1e-14)


def test_schedulers_may_reach_zero() -> None:
    model = _mlp()
    x, y = _data()
    optimizer = GGN(model, lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    for _ in range(2):
        optimizer.step(lambda: model(x) - y)
        scheduler.step()
    before = flat(model)
    optimizer.step(lambda: model(x) - y)
    assert torch.allclose(flat(model), before, rtol=0, atol=1e-12)


def test_state_dict_round_trip() -> None:
    model, twin = _mlp(), _mlp()
    x, y = _data()
    optimizer = GGN(model, lr=0.7, damping=0.4)
    optimizer.step(lambda: model(x) - y)
    resumed = GGN(twin, lr=1.0, damping=1.0)
    resumed.load_state_dict(optimizer.state_dict())
    twin.load_state_dict(model.state_dict())
    for _ in range(2):
        optimizer.step(lambda: model(x) - y)
        resumed.step(lambda: twin(x) - y)
    assert torch.equal(flat(model), flat(twin))


def test_parameter_groups_scale_their_part_of_the_step() -> None:
    model = _mlp()
    x, y = _data()
    optimizer = GGN(model, lr=1.0, damping=0.3)
    group = optimizer.param_groups[0]
    head = {"params": group["params"][2:], "param_names": group["param_names"][2:], "lr": 0.1, "damping": 0.3}
    group["params"], group["param_names"] = group["params"][:2], group["param_names"][:2]
    optimizer.param_groups.append(head)
    before, change = flat(model), dense_step(model, x, y, lr=1.0, damping=0.3)
    optimizer.step(lambda: model(x) - y)
    first = sum(p.numel() for p in group["params"])
    change[first:] *= 0.1
    assert torch.allclose(flat(model) - before, change, rtol=1e-9, atol=1e-14)
    head["damping"] = 1.0
    with pytest.raises(SettingError, match="damping must agree"):
        optimizer.step(lambda: model(x) - y)


def test_a_parameter_frozen_between_steps_stays() -> None:
    model = _mlp()
    x, y = _data()
    optimizer = GGN(model)
    optimizer.step(lambda: model(x) - y)
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    expected = dense_step(model, x, y, lr=1.0, damping=0.3)
    before = torch.cat([p.detach().reshape(-1) for p in model[2].parameters()])
    optimizer.step(lambda: model(x) - y)
    after = torch.cat([p.detach().reshape(-1) for p in model[2].parameters()])
    assert torch.equal(model[0].weight, frozen)
    assert torch.allclose(after - before, expected, rtol=1e-9, atol=1e-14)


def test_a_singular_gram_without_damping_takes_the_minimum_norm_step() -> None:
    """Two equal samples with different targets: no exact fit exists, the least-squares step is the sensible answer."""
    model = nn.Linear(3, 1).double()
    x = torch.randn(1, 3).double().repeat(2, 1)
    y = torch.tensor([[1.0], [3.0]]).double()
    before = flat(model)
    jacobian, residuals = dense_jacobian(model, x), (model(x) - y).detach().reshape(-1)
    optimizer = GGN(model, lr=1.0, damping=0.0)
    optimizer.step(lambda: model(x) - y)
    assert optimizer.info is not None
    assert optimizer.info.solver == "pseudo-inverse"
    assert torch.allclose(flat(model) - before, -torch.linalg.pinv(jacobian) @ residuals, rtol=1e-8, atol=1e-12)
    assert torch.allclose(model(x), torch.full((2, 1), 2.0).double())


def test_the_users_random_numbers_are_left_alone() -> None:
    model = _mlp()
    x, y = _data()
    state = torch.random.get_rng_state()
    GGN(model).step(lambda: model(x) - y)
    assert torch.equal(torch.random.get_rng_state(), state)


class EitherOrder(nn.Module):
    """Sums over positions; rows run sample by sample, or position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.positions_first = False

    def forward(self, x: Tensor) -> Tensor:
        if self.positions_first:
            return self.layer(x.transpose(0, 1).contiguous()).tanh().sum(2).sum(0)
        return self.layer(x).tanh().sum(2).sum(1)


def test_what_was_certified_for_one_graph_is_not_used_for_another() -> None:
    model = EitherOrder().double()
    optimizer = GGN(model, lr=0.5, damping=0.3)
    for positions_first, samples in ((False, 4), (True, 4), (False, 4), (True, 2)):
        model.positions_first = positions_first
        x, y = torch.randn(samples, 4, 3).double(), torch.randn(samples).double()
        before, change = flat(model), dense_step(model, x, y, lr=0.5, damping=0.3)
        optimizer.step(lambda x=x, y=y: model(x) - y)
        assert torch.allclose(flat(model) - before, change, rtol=1e-9, atol=1e-14)


class EitherView(nn.Module):
    """A vector that scales the features of every sample, or the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.randn(4)), nn.Linear(4, 4)
        self.of_samples = False

    def forward(self, x: Tensor) -> Tensor:
        return (
            self.layer(x) * self.scale.view(4, 1) if self.of_samples else self.layer(x) * self.scale.view(1, 4)
        ).sin()


def test_what_was_certified_for_one_view_of_a_parameter_is_not_used_for_another() -> None:
    """As many features as samples: nothing but the view tells the two graphs apart."""
    model = EitherView().double()
    optimizer = GGN(model, lr=0.5, damping=0.3)
    for of_samples in (False, True, False):
        model.of_samples = of_samples
        x, y = torch.randn(4, 4).double(), torch.randn(4, 4).double()
        before, change = flat(model), dense_step(model, x, y, lr=0.5, damping=0.3)
        optimizer.step(lambda x=x, y=y: model(x) - y)
        assert torch.allclose(flat(model) - before, change, rtol=1e-9, atol=1e-14)


def test_float32_stays_float32_and_close_to_double() -> None:
    model = _mlp().float()
    x, y = (t.float() for t in _data())
    before, change = flat(model), dense_step(model, x, y, lr=1.0, damping=0.3)
    loss = GGN(model).step(lambda: model(x) - y)
    assert loss.dtype == torch.float32
    assert torch.allclose(flat(model) - before, change, rtol=1e-3, atol=1e-5)


def test_rows_are_held_until_their_successors_and_no_longer() -> None:
    """At most one generation of explicit rows is alive between steps, and none of what is not trained any more."""
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    x, y = torch.randn(5, 2, 4, 4), torch.randn(5, 1)
    optimizer = GGN(model, damping=1.0)
    held = optimizer._make_system._linearize

    def step() -> list[weakref.ref[torch.Tensor]]:
        optimizer.step(lambda: model(x) - y)
        return [weakref.ref(rows) for rows in held._last_rows.values()]

    first = step()
    assert len(first) == 2  # of the convolution's weight and bias
    assert all(rows() is not None for rows in first)
    second = step()
    assert [rows() for rows in first] == [None, None]
    model[0].weight.requires_grad_(False)
    (only,) = step()
    assert [rows() for rows in second] == [None, None]
    kept = only()
    assert kept is not None
    assert kept.shape == (1, 5, 3)  # the bias's


def test_rows_beyond_the_budget_are_not_held() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    optimizer = GGN(model, damping=1.0, row_memory_gib=0)
    optimizer.step(lambda: model(torch.randn(5, 2, 4, 4)))
    assert optimizer._make_system._linearize._last_rows == {}


def test_rows_are_let_go_before_their_successors_are_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one parameter there are never two generations at a time, so holding them takes no memory at the peak."""
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    x, y = torch.randn(5, 2, 4, 4), torch.randn(5, 1)
    optimizer = GGN(model, damping=1.0)
    optimizer.step(lambda: model(x) - y)
    former = {p: weakref.ref(rows) for p, rows in optimizer._make_system._linearize._last_rows.items()}
    formed = []

    def watched(use: ConvolutionUse, parameter: Tensor, *others: object) -> Tensor:
        formed.append((parameter, former[parameter]()))
        return honest(use, parameter, *others)  # type: ignore[arg-type]

    honest = ConvolutionUse.jacobian_rows
    monkeypatch.setattr(ConvolutionUse, "jacobian_rows", watched)
    optimizer.step(lambda: model(x) - y)
    assert {parameter for parameter, _ in formed} == set(former)
    assert all(rows is None for _, rows in formed)


def _blocks(number: int) -> list[torch.nn.Module]:
    return [
        torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.GroupNorm(2, 4), torch.nn.Tanh())
        for _ in range(number)
    ]


class Checkpointed(torch.nn.Module):
    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)  # type: ignore[no-any-return]


def test_checkpointed_layers_with_explicit_rows() -> None:
    """What was recomputed can be looked at once in a backward pass: rows are formed after it then."""
    blocks, x = _blocks(3), torch.randn(5, 4, 4, 4)
    plain = torch.nn.Sequential(*blocks, torch.nn.Flatten(), torch.nn.Linear(64, 1)).double()
    model = copy.deepcopy(plain)
    for i in range(len(blocks)):
        model[i] = Checkpointed(model[i])
    one, other = GGN(plain, damping=0.5), GGN(model, damping=0.5)
    for _ in range(3):
        one.step(lambda: plain(x.double()) - 1)
        other.step(lambda: model(x.double()) - 1)
    assert torch.allclose(flat(plain), flat(model), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("outputs", "most"), [(1, 2), (3, 9)])
def test_cotangents_go_once_their_rows_are_formed(outputs: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one output, as the backward pass goes; with several, the pass is vectorised and delivers them together."""
    model = torch.nn.Sequential(*_blocks(4), torch.nn.Flatten(), torch.nn.Linear(64, outputs))
    cotangents: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watched(use: object, parameter: Tensor, cotangent: Tensor, *others: object) -> Tensor:
        if all(of() is not cotangent for of in cotangents):
            cotangents.append(weakref.ref(cotangent))
        alive.append(sum(of() is not None for of in cotangents))
        return honest[type(use)](use, parameter, cotangent, *others)

    honest = {kind: kind.jacobian_rows for kind in (ConvolutionUse, GroupNormUse)}
    for kind in honest:
        monkeypatch.setattr(kind, "jacobian_rows", watched)
    GGN(model, damping=1.0).step(lambda: model(torch.randn(5, 4, 4, 4)))
    assert len(cotangents) == 8
    assert max(alive) <= most
    assert (max(alive) == 8) == (outputs > 1)
