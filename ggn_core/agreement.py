"""What ranks must have in common before a step: settings, parameters, and the parameters' very bits.

Each rank updates its own parameters, and equal machines compute equal bits. Others may round differently, or a model
may have been made or loaded on one rank only: then all take the parameters and the momentum of rank 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import SettingError
from .momentum import BUFFER
from .ranks import Ranks
from .settings import RANGES, Settings

__all__ = ["agree"]


def agree(
    ranks: Ranks,
    read: Callable[[], Settings],
    groups: Sequence[Mapping[str, Any]],
    state: Mapping[Tensor, Mapping[str, Tensor]],
) -> Settings:
    """The step's settings; afterwards parameters and momentum are the same, bit for bit, on all ranks.

    Args:
        ranks: Those.
        read: Reads the settings.
        groups: The optimizer's parameter groups.
        state: Its state.

    Raises:
        SettingError: Settings are out of range, or ranks disagree about them or about what the parameters are.
    """
    tensors: dict[str, Tensor] = {}
    for group in groups:
        for name, p in zip(group["param_names"], group["params"], strict=True):
            tensors[f"the parameter {name}"] = p
            if BUFFER in state.get(p, {}):
                tensors[f"the momentum of {name}"] = state[p][BUFFER]
    tensors = dict(sorted(tensors.items()))  # in one order on all ranks

    def look() -> tuple[Settings, tuple[dict[str, object], list[list[int]]]]:
        settings = read()
        described: dict[str, object] = {
            f"{key} of group {i}": float(group[key] or 0) for i, group in enumerate(groups) for key in RANGES
        }
        described |= {name: _kind(tensor) for name, tensor in tensors.items()}
        return settings, (described, _fingerprints(list(tensors.values())))

    settings, told = ranks.together(look)
    (first, _), *others = told
    for rank, (other, _) in enumerate(others, start=1):
        for what in first | other:
            if first.get(what) != other.get(what):
                found = f"rank 0 has {first.get(what)}, rank {rank} {other.get(what)}"
                raise SettingError(f"{what} must agree on all ranks: {found}")
    for tensor, *seen in zip(tensors.values(), *(prints for _, prints in told), strict=True):
        if any(fingerprint != seen[0] for fingerprint in seen):
            ranks.from_first_(tensor)
    return settings


def _kind(tensor: Tensor) -> str:
    return f"{'trainable' if tensor.requires_grad else 'fixed'} {tuple(tensor.shape)} in {tensor.dtype}"


def _fingerprints(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Two checksums of each tensor's bits, modulo 2⁶⁴: the sum of its words, and of their squares.

    Differences in the last places may cancel in one of them, hardly in both.
    """
    words = [_words(tensor.detach()) for tensor in tensors]
    # On CPUs a dot product needs no memory for the squares; GPUs have none for integers.
    squares = [torch.dot(w, w) if w.device.type == "cpu" else (w * w).sum() for w in words]
    prints: list[list[int]] = torch.stack([torch.stack([w.sum() for w in words]), torch.stack(squares)], 1).tolist()
    return prints


def _words(tensor: Tensor) -> Tensor:
    """The bits of a tensor as 64-bit integers."""
    raw = tensor.contiguous().view(-1).view(torch.uint8)
    if len(raw) % 8 or raw.storage_offset() % 8:
        raw = pad(raw, (0, -len(raw) % 8))
    return raw.view(torch.int64)
