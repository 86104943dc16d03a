"""Explicit rows that are too many to keep are formed again, few at a time; cases.py holds the architectures."""

from collections.abc import Callable, Sequence

import pytest
import torch
from cases import CASES, Case
from compared import flat, relative_error
from torch import Tensor, nn

from ggn_core import GGN, backward, explain, gram
from ggn_core.capture import named_trainable
from ggn_core.linearizer import TOO_LARGE, Linearizer
from ggn_core.reference import dense_gram, dense_step
from ggn_core.rules import Rows, recomputed
from ggn_core.rules.recomputed import RecomputedBlock, RowMemory

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


class Powers(nn.Module):
    """Learned exponents, of which no rule knows; three vectors of them."""

    def __init__(self, size: int):
        super().__init__()
        self.first, self.second, self.third = (nn.Parameter(torch.rand(size) + 0.5) for _ in range(3))
        self.mix = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        for exponents in (self.first, self.second, self.third):
            x = (1 + x.square()) ** exponents - 1
        return self.mix(x)


@pytest.mark.parametrize("at_once", [1, recomputed.BYTES_AT_ONCE], ids=["in-parts", "whole"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_that_are_not_kept_give_the_same_jacobian(
    case: Case, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recomputed, "BYTES_AT_ONCE", at_once)
    inputs = case.inputs(5)
    model, inputs = case.model(2).double(), inputs.double() if inputs.is_floating_point() else inputs
    names, outputs = named_trainable(model), model(inputs)
    with torch.no_grad():
        kept, anew = Linearizer()(outputs, names), Linearizer(keep_bytes=0)(outputs, names)
        v = torch.randn(outputs.numel(), dtype=outputs.dtype)
        expected = kept.transposed(v)
        before = {p: p.clone() for p in names}
        found = [anew.gram(), anew.product(expected), *(anew.transposed(v)[p] for p in names)]
        wanted = [kept.gram(), kept.product(expected), *(expected[p] for p in names)]
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        anew.add_transposed_(v, 1.0)
        torch.testing.assert_close([p - before[p] for p in names], [expected[p] for p in names], rtol=1e-8, atol=1e-8)


def test_a_weight_too_large_at_once_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows there are, no more of them exist than the limit allows."""
    formed: list[slice] = []

    def form(parameters: Sequence[Tensor], part: slice) -> list[Tensor]:
        formed.append(part)
        return [torch.ones(2, 3, *torch.empty(7, 4)[part].shape)]

    weight = nn.Parameter(torch.zeros(7, 4))
    block = RecomputedBlock([weight], form, Rows(samples=3, outputs=2))
    monkeypatch.setattr(recomputed, "BYTES_AT_ONCE", 6 * 4 * 4 * 3)  # six rows, of three leading entries each
    gram = torch.zeros(6, 6)
    block.add_gram_(gram)
    assert formed == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert torch.equal(gram.tril(), torch.full((6, 6), 28.0).tril())


def test_the_smallest_rows_are_kept_first() -> None:
    sizes = (5, 2, 3, 1)
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    memory = RowMemory(4 * 2 * 7)  # seven columns of two rows
    kept, others = memory.divided(parameters, Rows(2, 1))
    assert ([len(p) for p in kept], [len(p) for p in others]) == ([2, 3, 1], [5])
    assert memory.left == 4 * 2
    kept, _ = memory.divided(parameters, Rows(1, 1))
    assert [len(p) for p in kept] == [1]


@pytest.mark.parametrize("columns", [40, 250, 600], ids=["parts", "one-at-a-time", "groups"])
def test_no_more_rows_of_the_generic_rule_exist_than_the_limit_allows(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = Powers(200).double(), torch.rand(30, 200).double(), torch.randn(30, 1).double()
    limit = 30 * 8 * columns
    monkeypatch.setattr(recomputed, "BYTES_AT_ONCE", limit)
    largest: list[int] = []

    def watched(honest: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
        def called(*arguments: object) -> Sequence[Tensor]:
            result = honest(*arguments)
            largest.append(sum(rows.nbytes for rows in result))
            return result

        return called

    before, change = flat(model), dense_step(model, x, y, lr=0.5, damping=2.0)
    monkeypatch.setattr(backward, "backward_passes", watched(backward.backward_passes))
    monkeypatch.setattr(RecomputedBlock, "_matrices", watched(RecomputedBlock._matrices))
    optimizer = GGN(model, lr=0.5, damping=2.0, row_memory_gib=0)
    optimizer.step(lambda: model(x) - y)
    assert optimizer.info is not None
    assert set(optimizer.info.generic) == {"first", "second", "third"}
    assert 0 < max(largest) <= limit
    assert relative_error(flat(model) - before, change) < 1e-10


@pytest.mark.parametrize(("columns", "rounds"), [(40, 15), (250, 3), (400, 2), (600, 1)])
def test_explain_counts_the_rounds(columns: int, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recomputed, "BYTES_AT_ONCE", 30 * 4 * columns)
    model, x = Powers(200), torch.rand(30, 200)
    assert explain(model, x).backward_passes == 1 + 30
    found = explain(model, x, row_memory_gib=0)
    assert {share.rule for share in found.shares if "mix.weight" not in share.parameters} == {"generic, not kept"}
    assert found.backward_passes == 1 + 30 * rounds


LOW_RANK = next(case for case in CASES if case.name == "low-rank")
SIZES = {"layer.weight": 16, "a": 8, "b": 8}  # entries; the weight that is computed of them has 16


@pytest.mark.parametrize("at_once", [1, recomputed.BYTES_AT_ONCE], ids=["in-parts", "whole"])
@pytest.mark.parametrize(
    ("columns", "rules"),
    [
        (48, {"layer.weight": "explicit rows", "a": "explicit rows", "b": "explicit rows"}),
        (32, {"layer.weight": "explicit rows, not kept", "a": "explicit rows", "b": "explicit rows"}),
        (15, dict.fromkeys(SIZES, "generic")),
        (0, dict.fromkeys(SIZES, "generic, not kept")),
    ],
)
def test_rows_by_way_of_a_computed_tensor(
    columns: int, rules: dict[str, str], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recomputed, "BYTES_AT_ONCE", at_once)
    model, x = LOW_RANK.model(3).double(), LOW_RANK.inputs(6).double()
    budget = 3 * 6 * 8 * columns
    found = {
        name: (share.rule, share.why)
        for share in explain(model, x, row_memory_gib=budget / 2**30).shares
        for name in share.parameters
        if name in SIZES
    }
    for name, rule in rules.items():
        assert found[name][0].startswith(rule)
        assert (TOO_LARGE in found[name][1]) == rule.startswith("generic")
    with torch.no_grad():
        jacobian = Linearizer(budget)(torch.enable_grad()(model)(x), named_trainable(model))
        assert relative_error(jacobian.gram(), dense_gram(model, x)) < 1e-10
    y = torch.randn(6, 3).double()
    before, change = flat(model), dense_step(model, x, y, lr=0.7, damping=0.3)
    GGN(model, lr=0.7, row_memory_gib=budget / 2**30).step(lambda: model(x) - y)
    assert relative_error(flat(model) - before, change) < 1e-10


def test_few_gradients_are_carried_at_once_where_one_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Powers(200).double(), torch.rand(30, 200).double()
    monkeypatch.setattr(recomputed, "BYTES_AT_ONCE", 3 * x.nbytes)  # three times what a layer of the network gives
    at_once: list[int] = []

    def watched(outputs: Tensor, inputs: Sequence[Tensor], cotangents: Tensor, *others: bool) -> tuple[Tensor, ...]:
        at_once.append(len(cotangents))
        return honest(outputs, inputs, cotangents, *others)

    honest = backward.backward_passes
    monkeypatch.setattr(backward, "backward_passes", watched)
    assert relative_error(gram(model, x), dense_gram(model, x)) < 1e-10
    assert at_once == [3] * 10


def test_rows_that_are_needed_once_are_kept_only_where_to_form_them_is_dear() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), Powers(24)).double()
    outputs = model(torch.rand(5, 2, 8).double())
    with torch.no_grad():
        jacobian = Linearizer(once=True)(outputs, named_trainable(model))
    kept = {p: not isinstance(block, RecomputedBlock) for block in jacobian.blocks for p in block.parameters}
    assert {name: kept[p] for name, p in model.named_parameters()} == {
        "0.weight": False, "0.bias": False, "2.first": True, "2.second": True, "2.third": True,
        "2.mix.weight": True, "2.mix.bias": True,
    }  # fmt: skip
