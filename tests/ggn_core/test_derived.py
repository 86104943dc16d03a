"""Parameters served through tensors that are computed from them; cases.py holds the architectures."""

import math

import pytest
import torch
from cases import CASES, Case
from compared import relative_error
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ggn_core import GGN, explain, gram
from ggn_core.backward import ROWS_AT_ONCE
from ggn_core.capture import named_trainable
from ggn_core.derived import derive
from ggn_core.reference import dense_gram
from ggn_core.residuals import as_rows
from ggn_core.rules import Parameters
from ggn_core.rules.linear import LinearUse
from ggn_core.rules.recomputed import RowMemory

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

COMPUTED = ("weight-norm", "low-rank", "standardized-kernels", "generated-weight", "positions-and-cross-attention")


@pytest.mark.parametrize("case", [case for case in CASES if case.name in COMPUTED], ids=lambda case: case.name)
def test_rows_are_pulled_back_in_portions(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = case.model(3).double(), case.inputs(ROWS_AT_ONCE // 2).double()
    assert 3 * len(inputs) > ROWS_AT_ONCE
    monkeypatch.setattr("ggn_core.linearizer.generic_blocks", lambda *_: pytest.fail("went through the generic rule"))
    assert relative_error(gram(model, inputs), dense_gram(model, inputs)) < 1e-10


class Gated(nn.Module):
    """A weight that is normalized, and whose norm is an exponent as well, which has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = parametrizations.weight_norm(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.layer(x).square()) ** self.layer.parametrizations.weight.original0.norm()


def test_one_unknown_way_sends_a_parameter_to_the_generic_rule_and_leaves_its_neighbours() -> None:
    torch.manual_seed(0)
    model, x = Gated().double(), torch.randn(6, 4).double()
    rules = {name: share.rule for share in explain(model, x).shares for name in share.parameters}
    scale, direction = (f"layer.parametrizations.weight.original{i}" for i in (0, 1))
    assert (rules[scale], rules[direction]) == ("generic", "explicit rows")
    assert relative_error(gram(model, x), dense_gram(model, x)) < 1e-10


class Multiplied(nn.Module):
    """By a square weight, normalized by rows or columns, or by its transpose."""

    def __init__(self, dim: int, transposed: bool):
        super().__init__()
        self.transposed, self.layer = transposed, parametrizations.weight_norm(nn.Linear(4, 4), dim=dim)
        nn.init.uniform_(self.layer.parametrizations.weight.original0, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        return nn.functional.linear(x, weight.T if self.transposed else weight, self.layer.bias)


@pytest.mark.parametrize(
    ("dim", "transposed", "rule"),
    [
        (0, False, "product of two Grams"),
        (0, True, "explicit rows"),
        (1, False, "explicit rows"),
        (1, True, "explicit rows"),
    ],
)
def test_rows_that_are_normalized_have_a_block_of_their_own(dim: int, transposed: bool, rule: str) -> None:
    torch.manual_seed(0)
    model, x = Multiplied(dim, transposed).double(), torch.randn(6, 4).double()
    rules = {name: share.rule for share in explain(model, x).shares for name in share.parameters}
    assert rules["layer.parametrizations.weight.original1"] == rule
    assert relative_error(gram(model, x), dense_gram(model, x)) < 1e-10


class ShiftedByANormalized(nn.Module):
    """A bias under weight normalization, entry by entry."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.s, self.weight = (nn.Parameter(torch.randn(shape)) for shape in ((3,), (3,), (3, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, torch._weight_norm(self.v, self.s, 0)).sin()


def test_a_normalized_bias_is_no_weight() -> None:
    torch.manual_seed(0)
    model, x = ShiftedByANormalized().double(), torch.randn(6, 4).double()
    assert relative_error(gram(model, x), dense_gram(model, x)) < 1e-10


def test_an_input_that_is_a_parameter_is_copied() -> None:
    """For the update changes parameters one after the other, and reads the layers' inputs meanwhile."""
    (case,) = (case for case in CASES if case.name == "weight-norm-of-a-parameter")
    model = case.model(1)
    residuals, parameters = model(torch.randn(6, 4)), named_trainable(model)
    v = model.layer.parametrizations.weight.original1
    ((use, _),) = derive(residuals, [v], parameters, as_rows(residuals), RowMemory(math.inf)).uses
    assert isinstance(use, LinearUse)
    assert use.activation is not None
    assert not Parameters(parameters).share_memory_with(use.activation)


def test_explain_tells_of_the_tensor() -> None:
    (share,) = (
        share
        for share in explain(parametrizations.weight_norm(nn.Linear(4, 3)), torch.randn(6, 4)).shares
        if "parametrizations.weight.original1" in share.parameters
    )
    assert "by way of a tensor computed from it, (3, 4) by WeightNorm" in share.why


def test_every_step_sums_in_the_same_order() -> None:
    """The same bits from the same start: no order hangs on where a tensor happens to lie in memory."""
    ends = []
    for _ in range(3):
        torch.manual_seed(0)
        model = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(6)), nn.Linear(4, 2))
        x, optimizer = torch.randn(5, 4), GGN(model, damping=0.1)
        for _ in range(3):
            optimizer.step(lambda: model(x) - 1)  # noqa: B023  run at once
        ends.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
