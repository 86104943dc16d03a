"""A step over several processes is the step of one process on all their samples."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sharded_runs
import torch
from cases import CASES
from compared import relative_error
from sharded_runs import Group, Run, Trained, as_told, started, trained
from torch import nn

from ggn_core import GGN, Armijo, LevenbergMarquardt, SettingError
from ggn_core.agreement import _fingerprints
from ggn_core.sharded import Shard, _owners, _portions, by_factors

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-10
SHARDS = {2: (3, 4), 4: (2, 1, 3, 1)}  # samples of each rank
# Of these no rank has all the samples, which see each other.
MIXING = ("mixing-samples", "centred-by-the-batch")
NAMES = [case.name for case in CASES if case.name not in MIXING]

# torch says so wherever its vmap falls back to a loop; slow is fine here.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Group]]:
    """Groups by their size."""
    with started(2, tmp_path_factory.mktemp("two")) as two, started(4, tmp_path_factory.mktemp("four")) as four:
        yield {2: two, 4: four}


def _both(groups: dict[int, Group], run: Run) -> tuple[Trained, Trained]:
    """The run over ranks, all of which end with the same bits, and alone."""
    first, *others = groups[len(run.shards)](as_told, run)
    for other in others:
        assert torch.equal(first.weights, other.weights)
        assert first.infos == other.infos
    return first, trained(run)


def _assert_equal(groups: dict[int, Group], run: Run) -> Trained:
    sharded, alone = _both(groups, run)
    assert relative_error(sharded.weights, alone.weights) < TOLERANCE
    if 1 in run.shards:  # with a single sample, there is less to tell tensors that are computed from parameters by
        assert set(sharded.generic) >= set(alone.generic)
    else:
        assert sharded.generic == alone.generic
    for found, expected in zip(sharded.infos, alone.infos, strict=True):
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)
    return sharded


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_that_of_the_whole_batch(groups: dict[int, Group], name: str) -> None:
    _assert_equal(groups, Run(name, SHARDS[2]))


@pytest.mark.parametrize(
    "name",
    ["mlp-tanh", "sequence-first", "tied-transpose", "weight-used-outside", "conv2d", "group-norm", "layer-norm",
     "embedding", "lstm", "attention"],
)  # fmt: skip
def test_the_step_of_four_ranks_is_that_of_the_whole_batch(groups: dict[int, Group], name: str) -> None:
    _assert_equal(groups, Run(name, SHARDS[4]))


@pytest.mark.parametrize("way", ["factors", "columns"])
@pytest.mark.parametrize(
    "name", ["mlp-tanh", "sequence", "tied-transpose", "embedding-twice-with-padding", "embedding-tied-to-head"]
)
def test_both_ways_give_the_same_step(groups: dict[int, Group], name: str, way: str) -> None:
    _assert_equal(groups, Run(name, SHARDS[2], way=way, settings={"momentum": 0.9}))


@pytest.mark.parametrize("kept", [0.0, 2.0], ids=["formed-anew", "kept"])
@pytest.mark.parametrize(
    "name", ["conv2d", "gru", "quotient", "powers", "embedding", "tied-transpose", "bare-parameters"]
)
def test_rows_are_exchanged_in_parts(groups: dict[int, Group], name: str, kept: float) -> None:
    _assert_equal(groups, Run(name, SHARDS[2], way="columns", at_once=400, settings={"row_memory_gib": kept}))


SETTINGS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "levenberg-marquardt": {"search": LevenbergMarquardt(), "lr": 1.0, "damping": 1e-3},
    "levenberg-marquardt-with-momentum": {"search": LevenbergMarquardt(), "momentum": 0.5},
    "armijo": {"search": Armijo(), "lr": 1.5},
    "short-steps": {"max_step_norm": 0.05},
    "decay": {"weight_decay": 0.1},
    "decay-and-search": {"weight_decay": 0.1, "search": Armijo()},
    "two-learning-rates": {"head_lr": 0.1, "momentum": 0.9},
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("name", "ranks"), [("mlp-tanh", 4), ("conv2d", 2)])
def test_everything_else_that_enters_a_step(
    groups: dict[int, Group], name: str, ranks: int, settings: dict[str, Any], weighted: bool
) -> None:
    found = _assert_equal(groups, Run(name, SHARDS[ranks], settings=settings, weighted=weighted, steps=4))
    if "search" in settings:
        assert all(info["attempts"] for info in found.infos)


def test_the_undamped_step_is_the_same(groups: dict[int, Group]) -> None:
    _assert_equal(groups, Run("mlp-gelu-wide", SHARDS[4], outputs=1, settings={"damping": 0.0}, steps=1))


def test_ranks_may_use_parameters_in_different_ways(groups: dict[int, Group]) -> None:
    for found, expected, told in groups[2](sharded_runs.of_two_minds):
        assert relative_error(found, expected) < TOLERANCE
        assert told  # also where the generic rule was another rank's


def test_the_solution_of_rank_0_counts(groups: dict[int, Group]) -> None:
    run = Run("mlp-tanh", SHARDS[2])
    for found in groups[2](sharded_runs.solving_otherwise, run):
        assert relative_error(found.weights, trained(run).weights) < TOLERANCE


def test_parameters_that_differ_become_those_of_rank_0(groups: dict[int, Group]) -> None:
    (first, expected), *others = groups[4](sharded_runs.made_apart)
    assert relative_error(first, expected) < TOLERANCE
    assert all(torch.equal(found, first) for found, _ in others)


WRONG = {
    "raises": ("RankError", "rank 1 failed: ValueError: no such file"),
    "search raises": ("RankError", "rank 1 failed: ValueError: no such file"),
    "search shrinks": ("ResidualsError", "rank 1 failed: the closure returned residuals of shape"),
    "no function": ("ResidualsError", "rank 1 failed: step takes a function"),
    "nan": ("NonFiniteError", "rank 1 failed: the residuals hold NaN"),
    "empty": ("ResidualsError", "rank 1 failed: the residuals are empty"),
    "range": ("SettingError", "rank 1 failed: damping must be a finite number"),
    "lr": ("SettingError", "lr of group 0 must agree on all ranks: rank 0 has 1.0, rank 1 0.5"),
    "frozen": ("SettingError", "the parameter 0.weight must agree on all ranks"),
    "dtype": ("SettingError", "must agree on all ranks: rank 0 has trainable (5,) in torch.float64, rank 1"),
    "outputs": ("ResidualsError", "residuals a sample must agree on all ranks: rank 0 has 2, rank 1 1"),
    "weighted": ("ResidualsError", "sample_weights must agree on all ranks: rank 0 has False, rank 1 True"),
    "negative": ("SettingError", "sample_weights must be finite, ≥ 0"),
}


@pytest.mark.parametrize(("what", "expected"), WRONG.items(), ids=WRONG)
def test_what_goes_wrong_on_one_rank_is_an_error_on_all(
    groups: dict[int, Group], what: str, expected: tuple[str, str]
) -> None:
    kind, words = expected
    for found, message, stayed in groups[2](sharded_runs.stumbling, what, 1):
        assert (found, stayed) == (kind, True)
        assert words in message


def test_a_rank_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    with started(3, tmp_path) as group:
        answers = group(sharded_runs.killed, 1, silent=1)
    assert len(answers) == 2
    assert all(answer.startswith("step 2: ") for answer in answers)


@pytest.mark.parametrize("name", ["mlp-gelu-wide", "sequence-long-and-narrow", "embedding", "linear"])
def test_the_way_chosen_moves_the_fewest_bytes(groups: dict[int, Group], name: str) -> None:
    def received(way: str | None, outputs: int) -> int:
        found: list[Trained] = groups[4](as_told, Run(name, (2, 2, 2, 2), outputs, way=way, steps=1))
        return sum(rank.received for rank in found)

    for outputs in (1, 3):
        ways = received("factors", outputs), received("columns", outputs)
        assert received(None, outputs) <= min(ways)
        assert ways[0] != ways[1]


@pytest.mark.parametrize(("inputs", "outputs", "factors"), [(512, 512, True), (512, 1, False), (3, 4, False)])
def test_a_wide_layer_goes_by_its_factors_and_a_narrow_one_by_columns(inputs: int, outputs: int, factors: bool) -> None:
    """For 4 ranks of 32 samples: N (p + d) entries against (p d + p) (N/R + 2)."""
    key = ("linear", ("weight", "bias"), (torch.float32, torch.float32))
    shard = Shard(32, 1, torch.float32, False, {}, {key: ((1, 32, 1, outputs), (1, 32, 1, inputs))})
    entries = {"weight": inputs * outputs, "bias": outputs}
    assert (128 * (inputs + outputs) <= sum(entries.values()) * (32 + 2)) == factors
    assert by_factors([shard] * 4, entries) == ({key: 4 * 32 * 4 * (inputs + outputs)} if factors else {})


def test_layers_are_spread_by_their_flops() -> None:
    blocks: list[Any] = [SimpleNamespace(plans=lambda f=flops: [SimpleNamespace(flops=f)]) for flops in (3, 8, 4, 5)]
    assert _owners(blocks, 2) == [0, 0, 1, 1]  # 8 + 3 against 5 + 4


def test_portions_hold_every_column_once() -> None:
    parameters = [torch.zeros(5, 3), torch.zeros(()), torch.zeros(2), torch.zeros(1, 40), torch.zeros(7)]
    for columns in (1, 4, 10, 1000):
        covered = [torch.zeros_like(p) for p in parameters]
        for portion in _portions(parameters, columns):
            sizes = []
            for parameter, part in portion:
                (index,) = [i for i, p in enumerate(parameters) if p is parameter]
                view = covered[index][part] if parameter.dim() else covered[index]
                view += 1
                sizes.append(view.numel())
            assert sum(sizes) <= columns or len(sizes) == 1
        assert all(bool((c == 1).all()) for c in covered)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("values", [[1.0], [0.0, 1.0], [1.0, 0.5, 0.3], [-0.3, 0.0, 0.0, 2.0]], ids=str)
def test_a_checksum_tells_the_last_bit(values: list[float], dtype: torch.dtype) -> None:
    first = torch.tensor(values, dtype=dtype)
    assert _fingerprints([first]) == _fingerprints([torch.cat([first[:1], first])[1:]])  # wherever it lies in memory
    last = torch.nextafter(first, torch.tensor(9.0, dtype=dtype))
    changed = [torch.where(torch.arange(len(first)) == i, last, first) for i in range(len(first))]
    prints = _fingerprints([first, *changed])
    assert all(other != prints[0] for other in prints[1:])


def test_a_checksum_tells_differences_that_cancel() -> None:
    first = torch.tensor([1.0, 0.3], dtype=torch.float64)
    changed = torch.nextafter(first, torch.tensor([9.0, 0.0], dtype=torch.float64))
    assert _fingerprints([first]) != _fingerprints([changed])


def test_a_run_resumes_bit_for_bit(groups: dict[int, Group]) -> None:
    for through, later in groups[2](sharded_runs.resumed):
        assert torch.equal(through, later)


def test_what_does_not_go_with_a_group_is_refused(groups: dict[int, Group]) -> None:
    for words in groups[2](sharded_runs.refused):
        assert [text.split(":")[0] for text in words] == [
            "with a group the Gram matrix is assembled",
            "with a group the Gram matrix is assembled",
            "ranks look at what the others tell them",
            "GGN(…, group=…) takes the model that DistributedDataParallel would wrap",
        ]
    with pytest.raises(SettingError, match="ProcessGroup"):
        GGN(nn.Linear(2, 1), group="all")  # type: ignore[arg-type]


def test_the_script_in_the_documents_runs(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "distributed.md").read_text(), re.DOTALL)
    (tmp_path / "train.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(torchrun, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", ended.stdout)]
    assert len(losses) == 5
    assert losses[-1] < losses[0] / 2
