"""Square matrices that every step fills anew, kept from one to the next."""

import torch
from torch import Tensor

from .recording import capturing

__all__ = ["Workspace"]

KEPT_BYTES = 2**28  # of one matrix; a larger one is made for each step, and its work outweighs what that costs


class Workspace:
    """Hands out matrices by name. Fresh memory of megabytes comes page by page, which can take as long as the work.

    Who asks for a name again gets the same memory, so a matrix is its holder's until the next step. A CUDA graph gets
    matrices of its own: it will write to them for as long as it lives, and what is kept here goes when sizes change.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def square(self, name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A matrix (size, size), its entries undefined."""
        if device.type != "cpu" and capturing(device):
            return torch.empty(size, size, dtype=dtype, device=device)
        kept = self._kept.get(name)
        if kept is not None and kept.shape[0] == size and kept.dtype == dtype and kept.device == device:
            return kept
        matrix = torch.empty(size, size, dtype=dtype, device=device)
        if matrix.nbytes <= KEPT_BYTES:
            self._kept[name] = matrix
        else:
            self._kept.pop(name, None)
        return matrix
