"""The dense truth in float64: the Jacobian row by row, by plain backward passes, independent of every peer."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .networks import Workload

__all__ = ["DAMPING", "Truth", "exact", "load", "relative_error", "save"]

DAMPING = 8.0  # of every step, after matching each library's own scale; a power of two, so that the scale is exact

# Entries of the Jacobian held at once: 1 GiB. The Gram matrix is a sum over parameters, so it is taken in shares.
SHARE = 2**27


class Truth:
    """The Gram matrix (n·o, n·o) and the change of each parameter, by name, of one step with ``lr`` = 1."""

    def __init__(self, gram: Tensor, step: dict[str, Tensor]):
        self.gram, self.step = gram, step


def exact(model: nn.Module, inputs: Tensor, targets: Tensor, damping: float, independent: bool) -> Truth:
    """G = J Jᵀ and Δw = −Jᵀ (G + damping·I)⁻¹ (f − y), in float64 whatever the model's dtype.

    Args:
        model: Left as it is.
        inputs: Shape (n, ...).
        targets: Shape (n, o).
        damping: Added to the diagonal.
        independent: Samples do not see each other, so that each one's rows need only its own forward pass.
    """
    model = copy.deepcopy(model).double()
    inputs, targets = (t.double() if t.is_floating_point() else t for t in (inputs, targets))
    parameters = dict(model.named_parameters())  # a tied parameter once
    outputs = [model(part) for part in (torch.split(inputs, 1) if independent else [inputs])]
    flat = torch.cat(outputs).reshape(-1)  # (n·o,)
    gram = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for share in _shares(list(parameters.values()), SHARE // len(flat)):
        jacobian = torch.empty(len(flat), sum(p.numel() for p in share), dtype=torch.float64)
        values = (value for output in outputs for value in output.reshape(-1))
        for row, value in zip(jacobian, values, strict=True):
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, share, retain_graph=True)], out=row)
        gram += jacobian @ jacobian.T
    residuals = flat.detach() - targets.reshape(-1)
    v = torch.linalg.solve(gram + damping * torch.eye(len(flat), dtype=torch.float64), residuals)
    change = torch.autograd.grad(flat, list(parameters.values()), v)
    return Truth(gram, {name: -c for name, c in zip(parameters, change, strict=True)})


def save(workload: Workload, path: Path) -> None:
    """Writes the workload's arrays and its truth: what a process without torch needs."""
    model, inputs, targets = workload.load()
    truth = exact(model, inputs, targets, DAMPING, workload.independent)
    arrays = {"inputs": inputs, "targets": targets, "gram": truth.gram, "damping": torch.tensor(DAMPING)}
    arrays |= {f"parameter {name}": p.detach() for name, p in model.named_parameters()}
    arrays |= {f"step {name}": change for name, change in truth.step.items()}
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]


def load(path: Path) -> Truth:
    """The truth that ``save`` wrote."""
    with np.load(path) as arrays:
        step = {name[5:]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("step ")}
        return Truth(torch.from_numpy(arrays["gram"]), step)


def relative_error(value: Tensor, truth: Tensor) -> float:
    """‖value − truth‖ / ‖truth‖ in the Frobenius norm."""
    return float((value.double() - truth).norm() / truth.norm())


def _shares(parameters: list[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Consecutive parameters of at most ``size`` entries together; a larger one alone."""
    share: list[Tensor] = []
    for p in parameters:
        if share and sum(q.numel() for q in share) + p.numel() > size:
            yield share
            share = []
        share.append(p)
    yield share


if __name__ == "__main__":
    from .networks import WORKLOADS
    from .traps import TRAPS

    save((WORKLOADS | TRAPS)[sys.argv[1]], Path(sys.argv[2]))
