"""One case of a PyTorch peer, in a process of its own: python -m suites.peers.worker CASE RESULT."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.phases import step_phases

from .measure import Memory, interleave
from .networks import WORKLOADS, Workload
from .peers import PEERS, RIVALS, first_order
from .record import Case, Row, failure, read_case, write_row
from .traps import TRAPS
from .truth import DAMPING, load, relative_error

__all__ = ["answer"]

THREADS = 2
LR = 1e-3  # of timed steps: small, so that the network stays what it is

Call = Callable[[], object]


def answer(case: Case) -> Row:
    """Measures, or says why not."""
    torch.set_num_threads(THREADS)
    row = Row(case.peer, case.workload, case.quantity)
    workload = (WORKLOADS | TRAPS)[case.workload]
    try:
        if case.quantity == "phases":
            row.seconds = step_phases(*workload.load(), DAMPING, case.budget.most)
        elif _prepare(case, *(workload.tiny or workload).load()) is None:
            row.offered, row.reason = False, "not offered"
        elif case.kind == "memory":
            row.peak_mib = _memory(case, workload)
        else:
            row.error = _error(case, workload)
            if case.kind == "time":
                row.seconds = _seconds(case, workload)
    except Exception as error:  # whatever a library raises is this case's answer
        traceback.print_exc()
        row.reason = failure(error)
    return row


def _prepare(case: Case, model: nn.Module, inputs: Tensor, targets: Tensor, lr: float = LR) -> Call | None:
    if case.peer in RIVALS:
        return first_order(RIVALS[case.peer], model, inputs, targets)
    peer = PEERS[case.peer]
    if case.quantity == "gram":
        return peer.gram(model, inputs)
    return peer.step(model, inputs, targets, lr, DAMPING)


def _seconds(case: Case, workload: Workload) -> dict[str, list[float]]:
    calls: dict[str, Call] = {}
    for name, kind in RIVALS.items():
        calls[name] = first_order(kind, *workload.load())
    call = _prepare(case, *workload.load())
    assert call is not None
    return interleave({"peer": call, **calls}, case.budget)


def _error(case: Case, workload: Workload) -> float:
    truth = load(Path(case.data))
    model, inputs, targets = workload.load()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    call = _prepare(case, model, inputs, targets, lr=1.0)
    assert call is not None
    result = call()
    if case.quantity == "gram":
        assert isinstance(result, Tensor)
        return relative_error(result.detach(), truth.gram)
    change = [(p.detach() - before[name]).reshape(-1) for name, p in model.named_parameters()]
    return relative_error(torch.cat(change), torch.cat([truth.step[name].reshape(-1) for name in before]))


def _memory(case: Case, workload: Workload) -> float:
    """Two calls: the second one meets what the first has left, its gradients for instance."""
    for _ in range(2):  # what a process pays once: libraries loaded late, thread pools
        small = _prepare(case, *(workload.tiny or workload).load())
        assert small is not None
        small()
    model, inputs, targets = workload.load()
    memory = Memory()
    call = _prepare(case, model, inputs, targets)
    assert call is not None
    call()
    call()
    return memory.peak()


if __name__ == "__main__":
    write_row(answer(read_case(Path(sys.argv[1]))), Path(sys.argv[2]))
