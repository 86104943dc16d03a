"""The peers benchmark's workloads and truth, to which installed peers are held, and what make installs."""

import ast
import copy
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ggn_core.reference import dense_gram, dense_step
from suites.peers import truth
from suites.peers.count import least, multiply_adds
from suites.peers.networks import SHARED, WORKLOADS, mlp
from suites.peers.peers import PEERS, RIVALS
from suites.peers.run import TITLES
from suites.peers.traps import TRAPS

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "ours": "ggn_core",
    "torch.func": "torch.func",
    "torchjd": "torchjd",
    "nngeometry": "nngeometry",
    "torch-lm": "torch_levenberg_marquardt",
}
# peer -> whether it offers the Gram matrix, and the step
OFFERS = {
    "ours": (True, True),
    "torch.func": (True, False),
    "torchjd": (True, True),
    "nngeometry": (True, False),
    "torch-lm": (False, True),
}


# registry and adapters


def test_the_registry_names_every_peer_and_its_library() -> None:
    assert set(PEERS) == set(LIBRARIES) == set(OFFERS)
    assert list(TITLES["peers"]) == [*PEERS, "somax"]
    assert len({peer.title for peer in PEERS.values()}) == len(PEERS)
    assert set(TITLES["rivals"]) == set(RIVALS)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_agrees_with_the_dense_truth(name: str) -> None:
    pytest.importorskip(LIBRARIES[name])
    torch.manual_seed(0)
    model, inputs, targets = mlp(3, 8, 8, 2).double(), torch.randn(4, 3).double(), torch.randn(4, 2).double()
    gram = PEERS[name].gram(copy.deepcopy(model), inputs)
    trained = copy.deepcopy(model)
    step = PEERS[name].step(trained, inputs, targets, 0.5, 2.0)
    assert (gram is not None, step is not None) == OFFERS[name]
    if gram is not None:
        assert torch.allclose(gram(), dense_gram(model, inputs), rtol=1e-10)
    if step is not None:
        step()
        change = torch.cat([(p - q).reshape(-1) for p, q in zip(trained.parameters(), model.parameters(), strict=True)])
        assert torch.allclose(change, dense_step(model, inputs, targets, lr=0.5, damping=2.0), rtol=1e-8, atol=1e-14)


# networks and truth


def test_workloads_are_what_their_titles_say() -> None:
    sizes = {name: sum(p.numel() for p in workload.network().parameters()) for name, workload in WORKLOADS.items()}
    assert sizes["mlp-1"] == 785 * 1024 + 2 * 1025 * 1024 + 1025
    assert sizes["mlp-10"] == 785 * 512 + 513 * 512 + 513 * 10
    convolutions = [m for m in WORKLOADS["resnet-1"].network().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 32  # layers with weights, the head among them
    assert sizes["resnet-10"] - sizes["resnet-1"] == 65 * 9
    for workload in WORKLOADS.values():
        assert workload.tiny is not None
        model, inputs, targets = workload.tiny.load()
        assert model(inputs).shape == targets.shape


def test_the_least_of_a_multilayer_perceptron_is_the_formula_of_its_widths() -> None:
    n, widths = 64, (64, 256, 256, 256, 1)
    sizes = [d * p for d, p in pairwise(widths)]
    sgd = n * (3 * sum(sizes) - sizes[0])
    grams = sum(n**2 * (d + p) / 2 for d, p in pairwise(widths))
    assert least(WORKLOADS["mlp-small"]) * sgd == pytest.approx(sgd + grams + n**3 / 6)


def test_the_least_of_a_convolutional_network_is_the_formula_of_explicit_rows() -> None:
    workload = WORKLOADS["resnet-10"]
    model, inputs, _ = workload.load()
    n, rows = len(inputs), 10 * len(inputs)
    with FlopCounterMode(display=False) as forward:
        model(inputs)
    passes, first = forward.get_total_flops() / 2 / n, 32 * 32 * 16 * 3 * 9
    head = 10 * 64  # its weights; it has two Grams instead of rows
    entries = sum(p.numel() for p in model.parameters()) - head - 10
    own = rows * (passes - head) + rows**2 * entries / 2 + rows * entries
    own += (rows**2 * 10 + n**2 * 64) / 2 + n * head
    expected = n * passes + rows * (passes - first) + own + rows**3 / 6
    assert multiply_adds(workload)[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mlp-10", "resnet-10"])
def test_the_count_of_sgd_is_torchs(name: str) -> None:
    model, inputs, targets = WORKLOADS[name].load()
    with FlopCounterMode(display=False) as counter:
        (model(inputs) - targets).square().mean().backward()
    assert 2 * multiply_adds(WORKLOADS[name])[1] == counter.get_total_flops()


@pytest.mark.parametrize("trap", TRAPS)
def test_the_truth_is_the_dense_jacobians(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "SHARE", 16 * 50)  # several shares, some of them larger than allowed
    model, inputs, targets = TRAPS[trap].load()
    exact = truth.exact(model, inputs, targets, 2.0, TRAPS[trap].independent)
    if not TRAPS[trap].independent:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            truth.exact(model, inputs, targets, 2.0, independent=True)
        model[1].track_running_stats = False  # jacrev allows no running statistics; they do not act on the outputs
        model[1].running_mean = model[1].running_var = None
    double = copy.deepcopy(model).double()
    x = inputs.double() if inputs.is_floating_point() else inputs
    assert torch.allclose(exact.gram, dense_gram(double, x), rtol=1e-10)
    step = torch.cat([exact.step[name].reshape(-1) for name, _ in double.named_parameters()])
    assert torch.allclose(step, dense_step(double, x, targets.double(), lr=1.0, damping=2.0), rtol=1e-8, atol=1e-12)


def test_the_truth_survives_its_file(tmp_path: Path) -> None:
    tiny = WORKLOADS["mlp-10"].tiny
    assert tiny is not None
    truth.save(tiny, tmp_path / "tiny.npz")
    loaded, exact = truth.load(tmp_path / "tiny.npz"), truth.exact(*tiny.load(), truth.DAMPING, True)
    assert torch.equal(loaded.gram, exact.gram)
    assert list(loaded.step) == list(exact.step)
    assert all(torch.equal(loaded.step[name], exact.step[name]) for name in exact.step)
    with np.load(tmp_path / "tiny.npz") as arrays:
        assert {"inputs", "targets", "damping", "parameter 0.weight"} <= set(arrays.files)


def test_the_jax_twins_bear_the_same_names() -> None:
    module = ast.parse((ROOT / "suites/peers/jax_networks.py").read_text())
    tables = {node.target.id: node.value for node in module.body if isinstance(node, ast.AnnAssign)}  # type: ignore[union-attr]
    networks = tables["NETWORKS"]
    assert isinstance(networks, ast.Dict)
    assert [ast.literal_eval(key) for key in networks.keys if key is not None] == [*SHARED, *TRAPS]


# what make installs


def test_make_installs_what_pyproject_names_and_no_other_torch() -> None:
    lines = (ROOT / "suites/peers/requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["optional-dependencies"]["peers"]:
        name, version = requirement.split(">=")
        assert pinned[name].startswith(version)
    assert "torch" not in pinned
    assert {PEERS[name].distribution for name in ("torchjd", "nngeometry", "torch-lm")} <= set(pinned)
    jax = (ROOT / "suites/peers/requirements-jax.txt").read_text().splitlines()
    assert all("==" in line for line in jax if not line.startswith("#"))
    assert {"jax", "python-somax"} <= {line.split("==")[0] for line in jax}
    assert "somax" not in {line.split("==")[0] for line in jax}  # another project's name
