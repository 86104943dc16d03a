r"""SPRING's momentum: the last direction φ as a prior of the next, of which the residuals correct what they can see.

.. math:: φ^+ = μφ + J^\top (J J^\top + \mathrm{damping}\, I)^{-1} (r - μ J φ)

It is the minimiser of ‖r − Jφ⁺‖² + damping ‖φ⁺ − μφ‖². With a learning rate, w ← w − lr φ⁺.

Source: Goldshlager, Abrahamsen, Lin, arXiv 2401.10190.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["prior", "update"]

BUFFER = "momentum_buffer"  # as torch.optim.SGD calls it

State = MutableMapping[Tensor, dict[str, Any]]
Groups = Sequence[Mapping[str, Any]]


def prior(state: State, groups: Groups) -> dict[Tensor, Tensor] | None:
    """μφ for every trainable parameter; None where there is nothing to remember yet."""
    found: dict[Tensor, Tensor | None] = {}
    for group in groups:
        for p in group["params"]:
            if p.requires_grad:
                buffer = state[p].get(BUFFER) if group["momentum"] and p in state else None
                found[p] = None if buffer is None else buffer * group["momentum"]
    if all(part is None for part in found.values()):
        return None
    return {p: torch.zeros_like(p) if part is None else part for p, part in found.items()}


def update(state: State, groups: Groups, direction: Mapping[Tensor, Tensor] | None) -> None:
    """Keeps the direction for the groups that have momentum; without one, after a rejected step, starts afresh."""
    if direction is None:
        for of_parameter in state.values():
            of_parameter.pop(BUFFER, None)
        return
    for group in groups:
        for p in group["params"]:
            if group["momentum"] and p in direction:
                if BUFFER not in state[p]:
                    state[p][BUFFER] = torch.empty_like(p, requires_grad=False)
                state[p][BUFFER].copy_(direction[p])
