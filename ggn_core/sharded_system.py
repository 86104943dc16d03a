"""The linear system of a step over ranks: the whole batch's, from each rank's samples."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .choice import Choose
from .errors import ResidualsError, SettingError
from .jacobian import Jacobian
from .linear_system import AssembledSystem, LinearSystem
from .ranks import Ranks
from .sharded import Shard, ShardedJacobian
from .solve import Solution, solve_damped
from .solver import Solver, SystemMaker, one_backward
from .weights import check_roots, root_weights

__all__ = ["ShardedSystemMaker"]


class ShardedSystemMaker(SystemMaker):
    """Makes the system from residuals that each rank has a part of.

    Args:
        ranks: Those.
        solver: "auto" or "cholesky", which are the same here.
        row_memory_gib: See GGN; of each rank's own rows.

    Raises:
        SettingError: The solver is another.
    """

    def __init__(self, ranks: Ranks, solver: Solver, row_memory_gib: float, choose: Choose):
        if solver not in ("auto", "cholesky"):
            raise SettingError(f"with a group the Gram matrix is assembled: solver must be 'cholesky', not {solver!r}")
        super().__init__("cholesky", row_memory_gib, False, choose=choose)
        self._ranks = ranks

    def __call__(
        self,
        evaluate: Callable[[], Tensor],
        parameters: dict[Tensor, str],
        sample_weights: Tensor | None,
        damping: float | Tensor,
        start: Tensor | None,
    ) -> tuple[Tensor, LinearSystem]:
        def linearize() -> tuple[tuple[Tensor, Jacobian, list[Tensor]], Shard]:
            residuals = evaluate()
            with one_backward():
                jacobian = self._linearize(residuals, parameters)
            vectors = [residuals.detach().reshape(-1)]
            if sample_weights is not None:  # of their values only the whole batch's can be judged
                vectors.append(root_weights(sample_weights, jacobian.rows, vectors[0], by_values=False))
            shard = Shard.of(jacobian, parameters, weighted=sample_weights is not None)
            return (residuals, jacobian, vectors), shard

        (residuals, local, vectors), shards = self._ranks.together(linearize)
        _check(shards)
        shapes = [[(shard.samples * shard.outputs,)] * len(vectors) for shard in shards]
        r, *roots = (torch.cat(parts) for parts in zip(*self._ranks.gather(vectors, shapes), strict=True))
        if roots:
            check_roots(*roots)
        jacobian = ShardedJacobian(self._ranks, shards, local, parameters)
        solve = partial(_solve_alike, self._ranks)
        return residuals, AssembledSystem(jacobian, r, roots[0] if roots else None, self._workspace, solve)


def _solve_alike(ranks: Ranks, *system: Any) -> Solution:
    """Solved on every rank, for all have the matrix; rank 0's solution counts: others may round differently."""
    solution = solve_damped(*system)
    ranks.from_first_(solution.v)
    return solution


def _check(shards: Sequence[Shard]) -> None:
    for what in ("outputs", "dtype", "weighted"):
        first, *others = (getattr(shard, what) for shard in shards)
        for rank, other in enumerate(others, start=1):
            if other != first:
                raise ResidualsError(f"{WORDS[what]} must agree on all ranks: rank 0 has {first}, rank {rank} {other}")


WORDS = {
    "outputs": "the number of residuals a sample",
    "dtype": "the dtype of the residuals",
    "weighted": "whether there are sample_weights",
}
