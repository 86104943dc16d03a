"""What explain says is what happens."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from ggn_core import GGN, ResidualsError, SettingError, explain, gram


class _Power(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.exponent = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).square() ** self.exponent


def test_every_parameter_has_its_rule() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.Linear(6, 5), nn.Flatten(), nn.Linear(20, 3))
    found = explain(model, torch.randn(7, 2, 8))
    assert (found.samples, found.outputs, found.backward_passes) == (7, 3, 3)
    rules = {name: share.rule for share in found.shares for name in share.parameters}
    assert rules == {
        "0.weight": "explicit rows", "0.bias": "explicit rows",
        "1.weight": "explicit rows", "1.bias": "explicit rows",
        "2.weight": "materialized", "2.bias": "materialized",
        "4.weight": "product of two Grams", "4.bias": "product of two Grams",
    }  # fmt: skip
    text = str(found)
    assert "Gram matrix 21 × 21: 7 samples, 3 outputs, 3 backward passes" in text
    assert all(word in text for word in ("4.weight, 4.bias", "4 positions: ", "GFLOP"))


def test_rows_that_do_not_fit_are_formed_twice() -> None:
    model = nn.Sequential(nn.Conv1d(2, 40, 3), nn.Flatten(), nn.Linear(240, 1))  # rows of 240 and 40 entries
    inputs = torch.randn(7, 2, 8)
    smallest = 7 * 4 * 40 / 2**30
    rules = {
        name: share.rule
        for share in explain(model, inputs, row_memory_gib=smallest).shares
        for name in share.parameters
    }
    assert rules["0.weight"] == "explicit rows, not kept"
    assert rules["0.bias"] == "explicit rows"  # the smallest are kept first
    with pytest.raises(SettingError, match="row_memory_gib must be a number ≥ 0, got -1"):
        GGN(model, row_memory_gib=-1)


def test_counts_of_a_known_layer() -> None:
    (share,) = explain(nn.Linear(10, 4, bias=False), torch.randn(6, 10)).shares
    assert share.flops == 6**2 * 10 + 24**2 * 4  # a·a' once, g·g' for all outputs; half of 2 multiply-adds
    assert share.memory == 4 * 6 * 4 * 4  # the cotangents (o, n, p) in float32


def test_the_generic_rule_is_told_with_its_reason() -> None:
    found = explain(_Power(), torch.randn(5, 3))
    reasons = {share.parameters: (share.rule, share.why) for share in found.shares}
    rule, why = reasons[("exponent",)]
    assert rule == "generic"
    assert "no rule for its use by Pow" in why
    assert found.backward_passes == 1 + 5
    mixing = explain(nn.Sequential(nn.Linear(3, 2), nn.Softmax(0)), torch.randn(5, 3))
    assert {share.rule for share in mixing.shares} == {"generic"}
    assert "samples meet" in mixing.shares[0].why


def test_a_model_without_parameters() -> None:
    with pytest.raises(ResidualsError, match="no trainable parameters"):
        explain(nn.ReLU(), torch.randn(2, 3))


def test_a_step_tells_once_of_parameters_that_are_slow() -> None:
    model, x = _Power(), torch.randn(40, 3)
    optimizer = GGN(model, lr=0.0)
    with pytest.warns(RuntimeWarning, match=r"'exponent' go through the generic rule.*40 backward passes.*Pow"):
        optimizer.step(lambda: model(x))
    assert optimizer.info is not None
    assert optimizer.info.generic == ("exponent",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: model(x))


def test_a_broadcast_of_outputs_against_targets_is_pointed_out() -> None:
    model, x, y = nn.Linear(3, 1), torch.randn(40, 3), torch.randn(40)
    with pytest.warns(RuntimeWarning, match=r"shape \(40, 40\).*outputs \(n, 1\) and the targets \(n,\)"):
        GGN(model).step(lambda: model(x) - y)


def test_an_ordinary_network_is_not_told_of() -> None:
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), torch.randn(64, 3)
    optimizer = GGN(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: model(x))
    assert optimizer.info is not None
    assert optimizer.info.generic == ()
    assert gram(model, x).shape == (64, 64)
