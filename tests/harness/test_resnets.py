"""Residual networks: published sizes, the signal at the start, and exact Gram matrices."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from ggn_core import gram
from harness.problems.resnets import FixupBlock, FixupResNet, NormalizedBlock, resnet

KINDS = ["fixup", "batchnorm", "groupnorm"]


@pytest.mark.parametrize(("kind", "expected"), [("fixup", 461_374), ("batchnorm", 463_569), ("groupnorm", 463_569)])
def test_resnet_32_has_the_published_number_of_parameters(kind: str, expected: int) -> None:
    """Three colours, one output. Fixup trades 2 × 1136 scales and shifts of BatchNorm for 77 numbers."""
    assert sum(p.numel() for p in resnet(kind, 3, 16, 32, 1, seed=0).parameters()) == expected
    convolutions = 9 * (3 * 16 + 10 * 16**2 + 16 * 32 + 9 * 32**2 + 32 * 64 + 9 * 64**2)
    assert expected - convolutions - 65 == (77 if kind == "fixup" else 2 * (11 * 16 + 10 * 32 + 10 * 64))


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_has_one_row_a_sample_for_any_image_size(kind: str) -> None:
    for side in (8, 28, 33):
        assert resnet(kind, 1, 8, 8, 3, seed=0)(torch.randn(2, 1, side, side)).shape == (2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone(kind: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (resnet(kind, 1, 8, 8, 1, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.conv.weight, again.conv.weight)
    assert not torch.equal(first.conv.weight, other.conv.weight)


def _mean_squares(network: nn.Module, inputs: torch.Tensor, kind: type[nn.Module]) -> list[float]:
    """Of the signal after each block."""
    found: list[float] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda *given: found.append(float(given[2].square().mean())))
    with torch.no_grad():
        network(inputs)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_fixup_starts_as_the_identity_and_keeps_the_signal_at_one(channels: int) -> None:
    """Every residual branch starts at zero, so only appended zeros thin the mean square: 1, then 1/2, then 1/4.

    He's initialization by fan-in keeps inputs of mean square 1 at 1 through the first convolution and its ReLU, but for
    the border, which sees zeros.
    """
    torch.manual_seed(0)
    network = resnet("fixup", channels, 64, 32, 1, seed=0).double()
    signal = _mean_squares(network, torch.randn(8, channels, 32, 32).double(), FixupBlock)
    assert signal[:5] == [signal[0]] * 5
    assert signal[0] == pytest.approx(1, abs=0.25)
    assert signal[5:10] == pytest.approx([signal[0] / 2] * 5, rel=0.03)
    assert signal[10:] == pytest.approx([signal[0] / 4] * 5, rel=0.06)


@pytest.mark.parametrize("kind", ["batchnorm", "groupnorm"])
def test_normalized_branches_have_unit_variance(kind: str) -> None:
    torch.manual_seed(0)
    network = resnet(kind, 3, 16, 32, 1, seed=0).double()
    branches: list[torch.Tensor] = []
    for module in network.modules():
        if isinstance(module, NormalizedBlock):
            module.norm2.register_forward_hook(lambda *given: branches.append(given[2]))
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32).double())
    assert len(branches) == 15
    for branch in branches:
        assert float(branch.mean()) == pytest.approx(0, abs=1e-9)
        assert float(branch.var(correction=0)) == pytest.approx(1, abs=0.01)


def test_fixup_scales_the_first_convolution_of_a_branch_by_the_number_of_branches() -> None:
    """He's standard deviation √(2 / fan-in) times 15^(−1/2)."""
    network = resnet("fixup", 3, 64, 32, 1, seed=0)
    assert isinstance(network, FixupResNet)
    block = network.blocks[1]
    assert float(block.conv1.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5 / 15**0.5, rel=0.02)
    assert not block.conv2.weight.any()


def test_a_zero_head_is_an_option() -> None:
    assert not resnet("fixup", 1, 8, 8, 1, seed=0).head.weight.any()
    assert resnet("fixup", 1, 8, 8, 1, seed=0, zero_head=False).head.weight.all()


@pytest.mark.parametrize("kind", ["fixup", "groupnorm"])
def test_its_gram_matrix_is_that_of_the_dense_jacobian(kind: str) -> None:
    torch.manual_seed(0)
    network = resnet(kind, 2, 8, 8, 2, seed=0, zero_head=False).double()
    with torch.no_grad():  # away from the start, where Fixup's second convolutions are zero
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = torch.randn(3, 2, 8, 8).double()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    jacobian = jacrev(lambda given: functional_call(network, given, (inputs,)))(parameters)
    rows = torch.cat([part.reshape(6, -1) for part in jacobian.values()], dim=1)
    found = gram(network, inputs)
    assert torch.allclose(found.reshape(6, 6), rows @ rows.T, rtol=1e-10)
