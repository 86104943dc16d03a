"""Sample weights: weight 2 is the sample twice, weight 0 is no sample."""

import copy

import pytest
import torch
from cases import CASES, Case
from compared import flat
from torch import Tensor, nn

from ggn_core import GGN, SettingError

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

WEIGHTS = torch.tensor([2, 0, 1, 3])
# In these the output of one sample depends on the others, so that a repeated sample changes them all.
MIXING = {"mixing-samples", "centred-by-the-batch"}


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


MATRIX_FREE = {"mlp-tanh", "conv2d", "embedding-tied-to-head", "lstm", "transformer-layer"}


def _cases() -> list[object]:
    kept = [case for case in CASES if case.name not in MIXING]
    made = [(case, solver) for case in kept for solver in ("cholesky", "cg")]
    return [
        pytest.param(case, solver, id=f"{case.name}-{solver}")
        for case, solver in made
        if solver == "cholesky" or case.name in MATRIX_FREE
    ]


@pytest.mark.parametrize(("case", "solver"), _cases())
def test_weights_are_repetitions(case: Case, solver: str) -> None:
    model, inputs = case.model(2).double(), case.inputs(4)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    targets = torch.randn_like(model(inputs).detach())
    twin = copy.deepcopy(model)
    weighted = GGN(model, damping=0.5, momentum=0.5, solver=solver)  # type: ignore[arg-type]
    repeated = GGN(twin, damping=0.5, momentum=0.5)
    many = torch.arange(4).repeat_interleave(WEIGHTS)
    for _ in range(2):
        loss = weighted.step(lambda: model(inputs) - targets, sample_weights=WEIGHTS)
        expected = repeated.step(lambda: twin(inputs[many]) - targets[many])
        assert torch.allclose(loss, expected, rtol=1e-9)
        tolerance = 1e-9 if solver == "cholesky" else 1e-5
        assert float((flat(model) - flat(twin)).norm() / flat(twin).norm()) < tolerance
        assert weighted.info is not None
        assert repeated.info is not None
        assert torch.allclose(weighted.info.gradient_norm, repeated.info.gradient_norm, rtol=10 * tolerance)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.ones(3), r"shape \(4,\), not \(3,\)"),
        (torch.ones(4, 1), r"shape \(4,\)"),
        (-torch.ones(4), "finite, ≥ 0"),
        (torch.zeros(4), "not all zero"),
        (torch.full((4,), float("nan")), "finite"),
        ([1.0, 1.0, 1.0, 1.0], "must be a tensor, not list"),
    ],
)
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_weights_out_of_range(weights: Tensor, words: str, solver: str) -> None:
    model = nn.Linear(3, 2)
    before, x = flat(model), torch.randn(4, 3)
    with pytest.raises(SettingError, match=words):
        GGN(model, solver=solver).step(lambda: model(x), sample_weights=weights)  # type: ignore[arg-type]
    assert torch.equal(flat(model), before)
