"""Each parameter is served by the rule it should be; exact results cannot show it, for the generic rule is exact."""

from collections.abc import Iterator

import pytest
import torch
from cases import CASES, Case
from compared import relative_error
from torch import Tensor, nn

from ggn_core import gram, linearizer
from ggn_core.capture import named_trainable
from ggn_core.linearizer import Linearizer
from ggn_core.reference import dense_gram
from ggn_core.rules import factored_gram, triangle
from ggn_core.rules.base import as_real, in_shape_of
from ggn_core.rules.linear_blocks import SequenceBlock
from ggn_core.rules.triangle import BLOCK_COLUMNS, mirrored

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

# Parameters left to the generic rule, by case.
GENERIC = {
    "powers": {"a", "b"},
    "mixing-samples": {"layer.weight", "layer.bias"},
    "centred-by-the-batch": {"layer.weight", "layer.bias"},
    "bilinear-layer": {"layer.weight"},
    "embedding-bag": {"0.weight"},
    "unbatched": {"layer.weight", "layer.bias"},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_generic_rule_serves_only_what_it_must(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = case.model(2).double(), case.inputs(7)
    names = named_trainable(model)
    served: set[str] = set()
    honest = linearizer.generic_blocks

    def spy(residuals, parameters, *others):  # type: ignore[no-untyped-def]
        served.update(names[p] for p in parameters)
        return honest(residuals, parameters, *others)

    monkeypatch.setattr(linearizer, "generic_blocks", spy)
    Linearizer()(model(inputs.double() if inputs.is_floating_point() else inputs), names)
    assert served == GENERIC.get(case.name, set())


def test_complex_numbers_are_pairs_whether_or_not_they_are_conjugated_yet() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert z.is_conj()
    assert as_real(z).tolist() == [[1, -2], [3, 4]]
    assert torch.equal(in_shape_of(z, as_real(z).flatten()), z)
    assert in_shape_of(torch.zeros(2, 1), torch.ones(2)).shape == (2, 1)


def _block(positions: int, width: int, outputs: int = 1) -> SequenceBlock:
    layer, inputs = nn.Linear(width, width).double(), torch.randn(4, positions, width).double()
    residuals = layer(inputs).square().sum(1) @ torch.randn(width, outputs).double()
    (block,) = Linearizer()(residuals, named_trainable(layer)).blocks
    assert isinstance(block, SequenceBlock)
    return block


def test_few_wide_positions_are_ghosts_and_many_narrow_ones_are_materialized() -> None:
    assert _block(positions=2, width=64).plans()[0].rule == "ghost"
    assert _block(positions=40, width=3).plans()[0].rule == "materialized"


@pytest.mark.parametrize(("rule", "positions", "width"), [("materialized", 40, 3), ("ghost", 2, 64)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_piece_by_piece_changes_nothing(
    rule: str, positions: int, width: int, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = torch.zeros(2, 4 * outputs, 4 * outputs).double()
    block = _block(positions, width, outputs)
    assert block.plans()[0].rule == rule
    block.add_gram_(whole)
    monkeypatch.setattr(factored_gram, "TEMPORARY_ELEMENTS", 1)
    monkeypatch.setattr(triangle, "LEAST_WORK", 0)
    monkeypatch.setattr(triangle, "BLOCK_COLUMNS", 1)
    block.add_gram_(pieces)
    assert torch.allclose(mirrored(whole), mirrored(pieces), rtol=1e-5)


@pytest.mark.parametrize("size", [3, BLOCK_COLUMNS, BLOCK_COLUMNS + 1, 2 * BLOCK_COLUMNS + 2])
def test_a_triangle_is_mirrored_whatever_stands_above_it(size: int) -> None:
    whole = torch.randn(size, size, dtype=torch.float64)
    whole = whole + whole.T
    counts = torch.ones_like(whole).tril() == 1 if size > BLOCK_COLUMNS else torch.ones_like(whole) == 1
    lower = torch.where(counts, whole, torch.nan)
    assert torch.equal(mirrored(lower), whole)
    out = torch.empty(size, size)
    assert mirrored(lower, out=out) is out
    assert torch.equal(out, whole.float())


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_triangle_may_be_summed_up_in_small_blocks(
    case: Case, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the other tests all rows fit in one block."""
    torch.manual_seed(0)
    model, inputs = case.model(outputs).double(), case.inputs(7)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    exact = dense_gram(model, inputs)
    monkeypatch.setattr(triangle, "BLOCK_COLUMNS", 4)
    monkeypatch.setattr(triangle, "LEAST_WORK", 0)
    assert torch.allclose(gram(model, inputs), exact, rtol=1e-10, atol=1e-10 * float(exact.abs().max()))


@pytest.fixture
def _cudnn() -> Iterator[None]:
    """The kernel of batch normalization that GPUs have, computed by this device's own: its node has other names."""

    def batch_norm(x: Tensor, *arguments: object) -> tuple[Tensor, ...]:
        return *torch.native_batch_norm(x, *arguments), x.new_empty(0)  # type: ignore[call-overload]

    library = torch.library.Library("aten", "IMPL")
    library.impl("cudnn_batch_norm", batch_norm, "CPU")
    yield
    library._destroy()


class CudnnBatchNorm(nn.BatchNorm2d):
    """In evaluation mode, as it runs on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        constants = self.weight, self.bias, self.running_mean, self.running_var
        output: Tensor = torch.cudnn_batch_norm(x, *constants, False, 0.1, self.eps)[0]
        return output


@pytest.mark.usefixtures("_cudnn")
def test_batch_norm_of_gpus_has_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm = CudnnBatchNorm(3).double().eval()
    for parameter in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(parameter, 0.5, 2.0)
    first, last = nn.Conv2d(2, 3, 3), nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(27, 2))
    model, plain = (nn.Sequential(first, middle, last).double() for middle in (norm, nn.BatchNorm2d(3).eval()))
    plain[1].load_state_dict(norm.state_dict())
    x = torch.randn(5, 2, 5, 5).double()
    monkeypatch.setattr(linearizer, "layouts_by_test", lambda *_: pytest.fail("was not proved to keep samples apart"))
    monkeypatch.setattr(linearizer, "generic_blocks", lambda *_: pytest.fail("went through the generic rule"))
    assert relative_error(gram(model, x), dense_gram(plain, x)) < 1e-10
