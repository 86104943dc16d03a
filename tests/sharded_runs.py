"""Processes that stay up for many small training runs, and the runs: each alone, or as one rank of a group."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import CASES
from compared import flat
from torch import Tensor, nn

from ggn_core import GGN, ConjugateGradient, LevenbergMarquardt, SettingError, sharded, sharded_system
from ggn_core.rules import recomputed
from ggn_core.solve import Solution

__all__ = [
    "Group", "Run", "Trained", "as_told", "killed", "made_apart", "of_two_minds", "refused", "resumed",
    "solving_otherwise", "started", "stumbling", "trained",
]  # fmt: skip

INFO = ("loss", "gradient_norm", "step_norm", "damping", "step_length", "accepted", "attempts", "gain_ratio")
CASE = {case.name: case for case in CASES}


@dataclass(frozen=True)
class Run:
    """A few steps, each on a fresh batch.

    Attributes:
        case: Of cases.py, by name.
        shards: Samples of each rank.
        outputs: Residuals a sample.
        settings: Of GGN; with "head_lr", the last parameters have a learning rate of their own.
        weighted: Whether samples have weights, those of the first rank 0.
        way: "factors" or "columns" where every block is to go one way; else None.
        at_once: Bytes of explicit rows that may be exchanged, and formed, at a time.
        steps: Their number.
    """

    case: str
    shards: tuple[int, ...]
    outputs: int = 3
    settings: dict[str, Any] = field(default_factory=dict)
    weighted: bool = False
    way: str | None = None
    at_once: int = recomputed.BYTES_AT_ONCE
    steps: int = 3


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    Attributes:
        weights: End to end.
        infos: Of each step, the numbers named in ``INFO``.
        generic: Names of the parameters that went through the generic rule.
        received: Bytes from other ranks.
    """

    weights: Tensor
    infos: list[dict[str, float]]
    generic: tuple[str, ...]
    received: int


def trained(run: Run, group: dist.ProcessGroup | None = None) -> Trained:
    """The run, on all samples or on those of this rank."""
    torch.manual_seed(0)
    case, total = CASE[run.case], sum(run.shards)
    model = case.model(run.outputs).double()
    settings = {"lr": 0.7, "damping": 0.3} | run.settings
    head_lr = settings.pop("head_lr", None)
    optimizer = GGN(model, **settings, group=group)
    if head_lr is not None:
        (whole,) = optimizer.param_groups
        head = {key: value[-2:] if key in ("params", "param_names") else value for key, value in whole.items()}
        whole["params"], whole["param_names"] = whole["params"][:-2], whole["param_names"][:-2]
        optimizer.param_groups.append(head | {"lr": head_lr})
    start = 0 if group is None else sum(run.shards[: group.rank()])
    mine = slice(start, total if group is None else start + run.shards[group.rank()])
    infos = []
    for _ in range(run.steps):
        inputs = case.inputs(total)
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        with torch.no_grad():
            targets = torch.randn_like(model(inputs))
        weights = torch.randint(0, 3, (total,)).double() if run.weighted else None
        if weights is not None:
            weights[: run.shards[0]] = 0
        x, y, w = inputs[mine], targets[mine], None if weights is None else weights[mine]
        loss = optimizer.step(lambda x=x, y=y: model(x) - y, sample_weights=w)
        assert optimizer.info is not None
        assert loss is optimizer.info.loss
        found = {name: getattr(optimizer.info, name) for name in INFO}
        infos.append({name: float(value) for name, value in found.items() if value is not None})
    received = 0 if optimizer._ranks is None else optimizer._ranks.received
    return Trained(flat(model), infos, optimizer.info.generic, received)


def as_told(run: Run, group: dist.ProcessGroup) -> Trained:
    """``trained``, with blocks going the way that the run says."""
    chosen, at_once = sharded.by_factors, (sharded.BYTES_AT_ONCE, recomputed.BYTES_AT_ONCE)
    if run.way == "factors":
        sharded.by_factors = lambda shards, entries: dict.fromkeys(shards[0].factors, sharded.MESSAGE_BYTES // 2)
    elif run.way == "columns":
        sharded.by_factors = lambda shards, entries: {}
    sharded.BYTES_AT_ONCE = recomputed.BYTES_AT_ONCE = run.at_once
    try:
        return trained(run, group)
    finally:
        sharded.by_factors, (sharded.BYTES_AT_ONCE, recomputed.BYTES_AT_ONCE) = chosen, at_once


def solving_otherwise(run: Run, group: dist.ProcessGroup) -> Trained:
    """``trained``, where all ranks but the first solve with an error, as an unlike machine might."""
    right = sharded_system.solve_damped

    def wrong(*system: Any) -> Solution:
        solution = right(*system)
        return replace(solution, v=solution.v * (1 + 1e-3 * group.rank()))

    sharded_system.solve_damped = wrong
    try:
        return trained(run, group)
    finally:
        sharded_system.solve_damped = right


def a_model(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def stumbling(what: str, at: int, group: dist.ProcessGroup) -> tuple[str, str, bool]:
    """A step in which something is wrong at one rank: the error's class and words, and whether the weights stayed."""
    wrong = what if group.rank() == at else None
    model = a_model(dtype=torch.float32 if wrong == "dtype" else torch.float64)
    model[0].weight.requires_grad_(wrong != "frozen")
    search = LevenbergMarquardt() if what.startswith("search") else None
    optimizer = GGN(model, lr=0.5 if wrong == "lr" else 1.0, search=search, group=group)
    if wrong == "range":
        optimizer.param_groups[0]["damping"] = -1.0
    samples, calls = 0 if wrong == "empty" else 3, []
    weights = {"weighted": torch.ones(3), "negative": -torch.ones(3)}.get(wrong or "")
    if what == "negative" and weights is None:
        weights = torch.ones(3)

    def closure() -> Tensor:
        calls.append(1)
        if wrong == "raises" or (wrong == "search raises" and len(calls) == 2):
            raise ValueError("no such file")
        residuals: Tensor = model(torch.ones(samples, 4, dtype=model[0].weight.dtype)) - 1
        if wrong == "nan":
            return residuals * torch.nan
        if wrong == "outputs":
            return residuals[:, :1]
        return residuals[1:] if wrong == "search shrinks" and len(calls) == 2 else residuals

    before = flat(model)
    try:
        optimizer.step(5 if wrong == "no function" else closure, sample_weights=weights)  # type: ignore[arg-type]
    except Exception as error:
        return type(error).__name__, str(error), torch.equal(before, flat(model))
    return "", "", False


def refused(group: dist.ProcessGroup) -> list[str]:
    """What does not go with a group, each with the words of its refusal."""
    model = a_model()
    wrapped = nn.parallel.DistributedDataParallel(model)
    words = []
    for network, settings in (
        (model, {"solver": "cg"}),
        (model, {"solver": ConjugateGradient()}),
        (model, {"capturable": True}),
        (wrapped, {}),
    ):
        try:
            GGN(network, group=group, **settings)  # type: ignore[arg-type]
        except SettingError as error:
            words.append(str(error))
    return words


def resumed(group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Four steps, and two steps whose state is taken over by another model and optimizer for two more."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4) + group.rank()

    def steps(model: nn.Module, state: dict[str, Any] | None, count: int) -> dict[str, Any]:
        optimizer = GGN(model, lr=0.5, momentum=0.9, search=LevenbergMarquardt(), group=group)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(count):
            optimizer.step(lambda: model(x) - 1)
        return optimizer.state_dict()

    through, broken_off, later = a_model(), a_model(), a_model(seed=1)
    steps(through, None, 4)
    state = steps(broken_off, None, 2)
    later.load_state_dict(broken_off.state_dict())
    steps(later, state, 2)
    return flat(through), flat(later)


def of_two_minds(group: dist.ProcessGroup) -> tuple[Tensor, Tensor, bool]:
    """A rank that uses a weight in one more way, which changes nothing; also another number of positions on each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs = [torch.randn(3, 2 + rank, 4).double() for rank in range(group.size())]

    def residuals(rank: int, network: nn.Module) -> Tensor:
        out = network(inputs[rank]).sum(1)
        return out if rank == 0 else torch.lerp(out, out, (network[2].weight ** 2).sum())

    alone = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    alone.load_state_dict(model.state_dict())
    reference, optimizer = GGN(alone, momentum=0.9), GGN(model, momentum=0.9, group=group)
    for _ in range(2):
        reference.step(lambda: torch.cat([residuals(rank, alone) for rank in range(group.size())]))
        optimizer.step(lambda: residuals(group.rank(), model))
    assert optimizer.info is not None
    return flat(model), flat(alone), "2.weight" in optimizer.info.generic


def made_apart(group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Models of different seeds, then a momentum that has drifted: what this rank ends with, and what rank 0 would."""
    model = a_model(seed=group.rank())
    optimizer = GGN(model, momentum=0.9, group=group)
    x = torch.ones(2, 4, dtype=torch.float64)
    optimizer.step(lambda: model(x) - 1)
    state = optimizer.state[model[0].weight]["momentum_buffer"]
    state[0, 0] += group.rank() * 1e-16
    optimizer.step(lambda: model(x) - 1)
    alone = a_model(seed=0)
    reference = GGN(alone, momentum=0.9)
    both = torch.ones(2 * group.size(), 4, dtype=torch.float64)
    for _ in range(2):
        reference.step(lambda: alone(both) - 1)
    return flat(model), flat(alone)


def killed(at: int, group: dist.ProcessGroup) -> str:
    """Steps without end, of which one rank is killed in the third: what the others end with."""
    model = a_model()
    optimizer = GGN(model, group=group)
    for step in range(1000):

        def closure(step: int = step) -> Tensor:
            if group.rank() == at and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return model(torch.ones(2, 4, dtype=torch.float64)) - 1

        try:
            optimizer.step(closure)
        except RuntimeError as error:
            return f"step {step}: {error}"
    return "nothing"


class Group:
    """Processes that wait for work.

    Args:
        connections: To each rank.
    """

    def __init__(self, connections: list[Connection]):
        self._connections = connections

    def __call__(self, work: Callable[..., Any], *arguments: Any, silent: int | None = None) -> list[Any]:
        """What each rank makes of the work, but for one that is expected to die."""
        for connection in self._connections:
            connection.send((work, arguments))
        answers = []
        for rank, connection in enumerate(self._connections):
            if rank != silent:
                assert connection.poll(60), f"rank {rank} does not answer"
                answer = connection.recv()
                if isinstance(answer, Exception):
                    raise answer
                answers.append(answer)
        return answers


@contextlib.contextmanager
def started(size: int, folder: Path) -> Iterator[Group]:
    """A group of so many processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ggn_core", "torch._dynamo"])  # seconds to import, now or at a step: once for all
    pipes = [context.Pipe() for _ in range(size)]
    store = f"file://{folder}/store-{size}"
    processes = [
        context.Process(target=_serve, args=(rank, size, store, there), daemon=True)
        for rank, (_, there) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        yield Group([here for here, _ in pipes])
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(rank: int, size: int, store: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=30))
    while True:
        work, arguments = connection.recv()
        try:
            connection.send(work(*arguments, dist.group.WORLD))
        except Exception as error:
            connection.send(RuntimeError(f"rank {rank}: {type(error).__name__}: {error}"))
