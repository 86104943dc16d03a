"""The generic rule: row r of the Jacobian is the gradient of residual r, by vectorised backward passes.

It asks nothing of the layers, not even that samples be independent, and costs n·o backward passes; where its rows are
too many to keep, n·o for each part of them that may exist at once, and as many again for the update.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backward import in_portions
from .base import WHOLE, Block, Rows
from .dense import dense_blocks
from .recomputed import RecomputedBlock, RowMemory, grouped

__all__ = ["generic_blocks"]


def generic_blocks(
    residuals: Tensor, parameters: Sequence[Tensor], rows: Rows, vectorise: bool, memory: RowMemory
) -> list[Block]:
    """The blocks of ``parameters``; the graph of ``residuals`` is kept."""

    def form(parameters: Sequence[Tensor], part: slice) -> list[Tensor]:
        # One cotangent a residual, output-major: (n o, n o) -> (n, o, ...) -> (o, n, ...) -> (o n, ...)
        identity = torch.eye(rows.total, dtype=residuals.dtype, device=residuals.device)
        basis = identity.view(rows.samples, rows.outputs, -1).transpose(0, 1).reshape(-1, *residuals.shape)
        gradients = in_portions(residuals, parameters, basis, vectorise, part)
        return [torch.unflatten(gradient, 0, (rows.outputs, rows.samples)) for gradient in gradients]

    kept, others = memory.divided(parameters, rows)
    blocks: list[Block] = [*dense_blocks(kept, form(kept, WHOLE))] if kept else []
    return blocks + [RecomputedBlock(group, form, rows) for group in grouped(others, rows.total)]
