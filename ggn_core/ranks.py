"""The processes of a group, one shard of the batch each: what they tell each other, and how much of it.

Every method is a collective: all ranks call it, in the same order. On GPUs the tensors stay where they are.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from .errors import GGNError, RankError, SettingError

__all__ = ["Ranks", "padded_bytes"]

Here = TypeVar("Here")
Told = TypeVar("Told")

ALIGNMENT = 16  # bytes: where a tensor of any dtype may begin within a message


class Ranks:
    """A process group.

    Args:
        group: A ``torch.distributed.ProcessGroup`` that this process belongs to.

    Attributes:
        size: Number of ranks R.
        mine: The rank of this process.
        received: Bytes of tensors that have come from other ranks so far, padding and partial sums included.

    Raises:
        SettingError: It is no such group.
    """

    def __init__(self, group: object):
        if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
            raise SettingError(
                f"group must be a torch.distributed.ProcessGroup with this process in it, got {type(group).__name__}; "
                "after init_process_group, torch.distributed.group.WORLD is that of all processes"
            )
        self._group = group
        self.size, self.mine = group.size(), group.rank()
        self.received = 0

    def together(self, work: Callable[[], tuple[Here, Told]]) -> tuple[Here, list[Told]]:
        """Does some work that is each rank's own; where it fails on one, all raise instead of waiting for that one.

        Args:
            work: Returns what to keep, and what to tell the other ranks, which must be picklable.

        Returns:
            What this rank keeps, and what each rank told.

        Raises:
            GGNError: A rank failed: by this package's error if it was one, else by RankError; it says which rank.
        """
        here, told, cause = None, None, None
        try:
            here, told = work()
        except Exception as error:
            cause = error
        answers: list[tuple[Told, type[GGNError] | None, str]] = [None] * self.size  # type: ignore[list-item]
        dist.all_gather_object(answers, (told, *_described(cause)), group=self._group)
        for rank, (_, kind, message) in enumerate(answers):
            if kind is not None:
                raise kind(f"rank {rank} failed: {message}") from cause
        return here, [answer for answer, _, _ in answers]  # type: ignore[return-value]

    def gather(self, tensors: Sequence[Tensor], shapes: Sequence[Sequence[tuple[int, ...]]]) -> list[list[Tensor]]:
        """All ranks' tensors, rank by rank, in one message, padded to the longest of the ranks'.

        Args:
            tensors: This rank's, of any dtypes, which the ranks share.
            shapes: Of each rank's tensors.
        """
        dtypes = [tensor.dtype for tensor in tensors]
        message = torch.cat([_aligned(tensor.contiguous().view(-1).view(torch.uint8)) for tensor in tensors])
        length = padded_bytes(shapes, dtypes)
        gathered = message.new_empty(self.size * length)
        dist.all_gather_single(gathered, pad(message, (0, length - len(message))), group=self._group)
        self.received += (self.size - 1) * length
        return [
            _unpacked(part, of_rank, dtypes)
            for part, of_rank in zip(torch.split(gathered, length), shapes, strict=True)
        ]

    def columns(self, matrix: Tensor, heights: Sequence[int]) -> list[Tensor]:
        """Rank by rank the rows (h, m'), cut to this rank's share m' of the columns; the shares are as even as can be.

        Args:
            matrix: This rank's rows, (heights[mine], m).
            heights: Of each rank's matrix.
        """
        shares = matrix.tensor_split(self.size, 1)
        width = shares[self.mine].shape[1]
        sizes = [height * width for height in heights]
        received = matrix.new_empty(sum(sizes))
        sent = torch.cat([share.reshape(-1) for share in shares])
        dist.all_to_all_single(received, sent, sizes, [share.numel() for share in shares], group=self._group)
        self.received += (sum(sizes) - sizes[self.mine]) * matrix.element_size()
        return [part.view(-1, width) for part in torch.split(received, sizes)] if width else []

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place; the same bits on all of them, as DistributedDataParallel relies on, too."""
        dist.all_reduce(tensor, group=self._group)
        self.received += 2 * (self.size - 1) * tensor.nbytes // self.size  # a ring's: reduced, then handed round
        return tensor

    def from_first_(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor, copied into that of every rank."""
        message = tensor.contiguous()
        dist.broadcast(message, group=self._group, group_src=0)
        self.received += message.nbytes if self.mine else 0
        return tensor if message is tensor else tensor.copy_(message)


def padded_bytes(shapes: Sequence[Sequence[tuple[int, ...]]], dtypes: Sequence[torch.dtype]) -> int:
    """Length of the message of any rank that ``gather`` takes these tensors in."""
    return max(sum(_aligned_bytes(shape, dtype) for shape, dtype in zip(s, dtypes, strict=True)) for s in shapes)


def _described(error: Exception | None) -> tuple[type[GGNError] | None, str]:
    if isinstance(error, GGNError):
        return type(error), str(error)
    return (None, "") if error is None else (RankError, f"{type(error).__name__}: {error}")


def _aligned(raw: Tensor) -> Tensor:
    return pad(raw, (0, -len(raw) % ALIGNMENT))


def _aligned_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return -(-torch.Size(shape).numel() * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _unpacked(message: Tensor, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    tensors, start = [], 0
    for shape, dtype in zip(shapes, dtypes, strict=True):
        size = torch.Size(shape).numel() * dtype.itemsize
        tensors.append(message[start : start + size].view(dtype).view(shape))
        start += _aligned_bytes(shape, dtype)
    return tensors
