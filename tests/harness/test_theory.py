"""Theory trials: predictions agree with the dense truth, and a defect of the optimizer makes them fail."""

import pytest
import torch

import ggn_core.optimizer
from ggn_core.reference import dense_gram, dense_jacobian
from harness.errors import UserError
from harness.problems import make_problem
from harness.problems.configs import TwoLayer
from harness.problems.two_layer import TwoLayerNetwork, kernel
from harness.theory import measure_theory
from harness.trial import Outcome, TheoryRecord, TheoryTrial, TrialResult


def _trial(**changes: object) -> TheoryTrial:
    settings: dict[str, object] = {
        "problem": {"name": "two_layer", "width": 200, "samples": 12, "inputs": 6, "test_samples": 20},
        "methods": ({"name": "sgd", "lr": 4.0, "momentum": 0.0},),
        "batch_size": 4,
        "dtype": "float64",
        "threads": 1,
        "seed": 3,
        "starts": (1.0, 0.1),
        "steps": 6,
        "epochs": 6,
        "link_damping": 0.1,
    }
    return TheoryTrial.model_validate(settings | changes)


def _record(trial: TheoryTrial) -> TheoryRecord:
    record = measure_theory(trial).theory
    assert record is not None
    return record


def _network(width: int = 200) -> tuple[TwoLayerNetwork, torch.Tensor, torch.Tensor]:
    config = TwoLayer(width=width, samples=12, inputs=6, test_samples=20)
    problem = make_problem(config, seed=3, dtype="float64")
    model = problem.model()
    assert isinstance(model, TwoLayerNetwork)
    return model, *problem.train.all()


@pytest.mark.parametrize("activation", ["softplus", "tanh", "relu"])
def test_the_closed_kernel_is_the_dense_one(activation: str) -> None:
    model = TwoLayerNetwork(5, 30, activation, seed=0)
    left, right = torch.randn(4, 5).double(), torch.randn(7, 5).double()
    expected = dense_jacobian(model, left) @ dense_jacobian(model, right).T
    assert torch.allclose(kernel(model, left, right), expected, atol=1e-12)


def test_data_fit_the_theorems() -> None:
    model, inputs, targets = _network()
    assert torch.allclose(inputs.norm(dim=1), torch.ones(12).double())
    with torch.no_grad():
        residuals = model(inputs) - targets
    assert float(residuals.square().mean()) == pytest.approx(1.0)
    assert set(model.signs.unique().tolist()) == {-1.0, 1.0}
    assert [name for name, _ in model.named_parameters()] == ["hidden.weight"]


def test_a_trial_measures_everything_and_comes_back_from_json() -> None:
    result = measure_theory(_trial())
    assert result.outcome is Outcome.COMPLETED
    record = result.theory
    assert record is not None
    assert [descent.method.name for descent in record.descents] == ["ggn", "ggn", "sgd"]
    assert record.descents[1].residuals[0] == pytest.approx(0.1 * record.descents[0].residuals[0])
    assert record.descents[0].residuals[-1] < 1e-10
    assert record.descents[2].residuals[-1] > 0.1
    assert len(record.epoch_residuals) == len(record.predicted_residuals) == 7
    assert TrialResult.model_validate_json(result.model_dump_json()) == result


def test_an_epoch_of_gauss_seidel_is_that_of_exact_kernel_solves() -> None:
    """Batch by batch with the dense Gram matrix of the initial network, residuals updated one after the other."""
    model, inputs, targets = _network()
    gram = dense_gram(model, inputs)
    with torch.no_grad():
        residual = (model(inputs) - targets)[:, 0]
    for first in (0, 4, 8):
        batch = slice(first, first + 4)
        residual = residual - gram[:, batch] @ torch.linalg.solve(gram[batch, batch], residual[batch])
    record = _record(_trial())
    assert record.predicted_residuals[1] == pytest.approx(float(residual.norm()), rel=1e-9)
    assert 0 < record.spectral_radius < 1


def test_the_bound_has_the_derived_constant() -> None:
    model, inputs, _ = _network()
    least = float(torch.linalg.eigvalsh(dense_gram(model, inputs))[0])
    expected = 0.25 * 12**0.5 / (2 * least) / 200**0.5
    assert _record(_trial()).descents[0].factors[0] == pytest.approx(expected, rel=1e-9)
    assert _record(_trial(problem={**_trial().problem.model_dump(), "activation": "relu"})).descents[0].factors == []


def test_the_gap_closes_with_width_and_a_wrong_damping_keeps_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def gap(width: int) -> float:
        return _record(_trial(problem={**_trial().problem.model_dump(), "width": width})).link_gap

    narrow, wide = gap(200), gap(6400)
    assert wide < narrow / 5
    honest = ggn_core.optimizer.GGN.__init__

    def damped_twice(self: object, model: torch.nn.Module, damping: float = 0.3, **settings: object) -> None:
        honest(self, model, damping=2 * damping, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(ggn_core.optimizer.GGN, "__init__", damped_twice)
    assert gap(6400) > 10 * wide


def test_other_problems_and_ragged_batches_are_refused() -> None:
    with pytest.raises(UserError, match="two_layer"):
        measure_theory(_trial(problem={"name": "concrete"}))
    with pytest.raises(UserError, match="does not divide"):
        measure_theory(_trial(batch_size=5))
