"""Each parameter is served by the rule it should be; exact results cannot show it, for the generic rule is exact."""

import pytest
import torch
from cases import CASES, Case

from ggn_core import jacobian
from ggn_core.capture import named_trainable
from ggn_core.jacobian import Linearizer
from ggn_core.rules.linear import LinearBlock

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

# Parameters left to the generic rule, by case.
GENERIC = {
    "weight-used-outside": {"layer.weight"},
    "bare-parameters": {"exponent"},
    "quotient": {"a", "b"},
    "mixing-samples": {"layer.weight", "layer.bias"},
    "instance-norm": {"1.weight", "1.bias"},
    "weight-norm": {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    "bilinear-layer": {"layer.weight"},
    "embedding-bag": {"0.weight"},
    "embedding-twice-with-padding": {"position.weight"},  # looked up once for all samples
    "unbatched": {"layer.weight", "layer.bias"},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_generic_rule_serves_only_what_it_must(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = case.model(2).double(), case.inputs(7)
    names = named_trainable(model)
    served: set[str] = set()
    honest = jacobian.generic_blocks

    def spy(residuals, parameters, rows, vectorise):  # type: ignore[no-untyped-def]
        served.update(names[p] for p in parameters)
        return honest(residuals, parameters, rows, vectorise)

    monkeypatch.setattr(jacobian, "generic_blocks", spy)
    Linearizer()(model(inputs.double() if inputs.is_floating_point() else inputs), names)
    assert served == GENERIC.get(case.name, set())


def _block(positions: int, width: int) -> LinearBlock:
    from torch import nn

    layer = nn.Linear(width, width)
    outputs = layer(torch.randn(4, positions, width)).sum((1, 2))
    (block,) = Linearizer()(outputs, named_trainable(layer)).blocks
    assert isinstance(block, LinearBlock)
    return block


def test_few_wide_positions_are_ghosts_and_many_narrow_ones_are_materialized() -> None:
    wide, narrow = _block(positions=2, width=64), _block(positions=40, width=3)
    assert wide.right is not None
    assert narrow.right is not None
    assert wide._ghost_is_cheaper(wide.right)
    assert not narrow._ghost_is_cheaper(narrow.right)


def test_materializing_piece_by_piece_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from ggn_core.rules import linear

    whole = torch.zeros(1, 4, 1, 4)
    block = _block(positions=40, width=3)
    block.add_gram_(whole)
    pieces = torch.zeros(1, 4, 1, 4)
    monkeypatch.setattr(linear, "TEMPORARY_ELEMENTS", 1)
    block.add_gram_(pieces)
    assert torch.allclose(whole, pieces, rtol=1e-5)
