"""The Jacobian of a batch that is spread over ranks: each has linearised its own samples.

What leads from the residuals to the weights is local, and so is J u; only the Gram matrix needs all samples in one
place. A block comes there by whichever way moves fewer bytes, with n samples, N = n·o rows, R ranks, m parameters:

- its factors go to every rank, n (o p + d) T entries for a linear layer: one rank sums up the Gram matrix of the whole
  block, and each takes the update from the factors it then has;
- its explicit rows go, a share of the columns to each rank, m N/R entries: each sums up the Gram matrix of its columns,
  and the update, the sum of what each rank's own samples contribute, is summed over the ranks, 2 m entries.

The second way is NetKet's for sharded minSR, except that there rows stay exchanged until the update: summing the
update instead moves m entries more, and spares to keep, or to exchange again, rows that were too many to keep.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .jacobian import Jacobian
from .ranks import Ranks, padded_bytes
from .rules import Block, Rows
from .rules.base import WHOLE, as_real, in_shape_of
from .rules.embedding import EmbeddingBlock
from .rules.linear_blocks import LinearBlock
from .rules.recomputed import BYTES_AT_ONCE
from .rules.triangle import add_outer_
from .workspace import Workspace

__all__ = ["Shard", "ShardedJacobian", "by_factors", "whole_residuals"]

MESSAGE_BYTES = 2**26  # of factors, from all ranks: they exist twice while they are put together

# What the factors of a block belong to: its kind, the names of its parameters, the factors' dtypes.
Key = tuple[str, tuple[str, ...], tuple[torch.dtype, ...]]
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Shard:
    """What a rank tells the others of its samples.

    Attributes:
        samples: Their number.
        outputs: Residuals of each.
        dtype: Of the residuals.
        weighted: Whether the samples have weights.
        generic: Names of the parameters that went through the generic rule, each with the reason.
        factors: The shapes of each block's factors, where it has some.
    """

    samples: int
    outputs: int
    dtype: torch.dtype
    weighted: bool
    generic: Mapping[str, str]
    factors: Mapping[Key, Shapes]

    @classmethod
    def of(cls, jacobian: Jacobian, names: Mapping[Tensor, str], *, weighted: bool) -> "Shard":
        """The shard of a rank's own Jacobian."""
        return cls(
            jacobian.rows.samples,
            jacobian.rows.outputs,
            jacobian.like.dtype,
            weighted,
            {names[p]: reason for p, reason in jacobian.generic.items()},
            {key: tuple(tuple(f.shape) for f in block.factors) for key, block in _factored(jacobian, names).items()},
        )


class ShardedJacobian(Jacobian):
    """J of the whole batch, the ranks' samples one after the other.

    Args:
        ranks: Each makes one of these.
        shards: Of each rank.
        local: The Jacobian of this rank's samples.
        names: Of all parameters.
    """

    def __init__(self, ranks: Ranks, shards: Sequence[Shard], local: Jacobian, names: Mapping[Tensor, str]):
        self._ranks, self._local = ranks, local
        self._samples = [shard.samples for shard in shards]
        rows = Rows(sum(self._samples), local.rows.outputs)
        factored, parameters = _factored(local, names), {name: p for p, name in names.items()}
        whole: list[Block] = []
        for keys in _messages(by_factors(shards, {name: p.numel() for name, p in parameters.items()})):
            factors = [factor for key in keys for factor in factored[key].factors]
            parts = ranks.gather(factors, [[shape for key in keys for shape in s.factors[key]] for s in shards])
            joined = iter([_one_batch(side) for side in zip(*parts, strict=True)])
            whole += [factored[key].joined([next(joined), next(joined)], rows) for key in keys]
        generic = {parameters[name]: why for shard in shards for name, why in shard.generic.items()}
        super().__init__(whole, rows, generic, local.like)
        owners = _owners(whole, ranks.size)
        self._summed_up_here = [block for block, rank in zip(whole, owners, strict=True) if rank == ranks.mine]
        gathered = {p for block in whole for p in block.parameters}
        others = [block for block in local.blocks if gathered.isdisjoint(block.parameters)]
        self._others = Jacobian(others, local.rows, {}, local.like)
        # By dtype, in an order that all ranks share; their blocks may hold them in different ways.
        self._exchanged: dict[torch.dtype, list[Tensor]] = {}
        for _, p in sorted(parameters.items()):
            if p not in gathered:
                self._exchanged.setdefault(as_real(p).dtype, []).append(p)

    @property
    def dtypes(self) -> list[torch.dtype]:
        return list(dict.fromkeys([*super().dtypes, *self._exchanged]))

    def lower_gram(self, workspace: Workspace) -> Tensor:
        return self._ranks.sum_(super().lower_gram(workspace))

    def add_shares_(self, sums: Mapping[torch.dtype, Tensor]) -> None:
        """This rank's: of the blocks that are its, and of its columns of the explicit rows."""
        for block in self._summed_up_here:
            block.add_gram_(sums[block.dtype])
        o = self.rows.outputs
        holders = {p: block for block in self._others.blocks for p in block.parameters}
        for dtype, parameters in self._exchanged.items():
            for portion in _portions(parameters, BYTES_AT_ONCE // (max(self._samples) * o * dtype.itemsize)):
                rows = [holders[p].explicit_rows(p, part).to(dtype) for p, part in portion]  # (o, n_k, *shape) each
                matrix = torch.cat([r.reshape(self._local.rows.total, -1) for r in rows], 1)  # (o n_k, m)
                columns = self._ranks.columns(matrix, [n * o for n in self._samples])
                if columns:  # (o n_k, m') of each rank -> (o, n, m') -> (o n, m')
                    whole = torch.cat([torch.unflatten(part, 0, (o, -1)) for part in columns], 1)
                    add_outer_(sums[dtype], whole.flatten(0, 1))

    def product(self, direction: Mapping[Tensor, Tensor]) -> Tensor:
        own = self._local.product(direction)
        return _joined(self._ranks, own, [n * self.rows.outputs for n in self._samples])

    def transposed(self, v: Tensor) -> dict[Tensor, Tensor]:
        return super().transposed(v) | self._summed(v)

    def add_transposed_(self, v: Tensor, alpha: float) -> None:
        parts = self._summed(v)  # before any parameter has changed: the graph may be read, and a rank may fail
        super().add_transposed_(v, alpha)
        for parameter, part in parts.items():
            parameter.add_(part, alpha=alpha)

    def _summed(self, v: Tensor) -> dict[Tensor, Tensor]:
        """Jᵀ v of the parameters whose rows were exchanged: Σ_k J_kᵀ v_k over the ranks' samples."""
        start = sum(self._samples[: self._ranks.mine]) * self.rows.outputs
        own = self._others.transposed(v[start : start + self._local.rows.total])
        summed: dict[Tensor, Tensor] = {}
        for dtype, parameters in self._exchanged.items():
            flat = self._ranks.sum_(torch.cat([as_real(own[p]).to(dtype).reshape(-1) for p in parameters]))
            parts = torch.split(flat, [as_real(p).numel() for p in parameters])
            summed |= {p: in_shape_of(p, part) for p, part in zip(parameters, parts, strict=True)}
        return summed


def by_factors(shards: Sequence[Shard], entries: Mapping[str, int]) -> dict[Key, int]:
    """The blocks of which to send the factors, for they are fewer bytes than explicit rows, and all ranks have them.

    Args:
        shards: Of each rank.
        entries: Of each parameter, by name.

    Returns:
        Each with the bytes of its factors, padded.
    """
    size, rows = len(shards), sum(shard.samples * shard.outputs for shard in shards)
    chosen = {}
    for key in shards[0].factors:
        if all(key in shard.factors for shard in shards):
            _, names, dtypes = key
            # Both over all ranks, as counted in ranks.py; R − 1 times these.
            factors = size * padded_bytes([shard.factors[key] for shard in shards], dtypes)
            columns = sum(entries[name] for name in names) * (rows / size + 2) * dtypes[-1].itemsize
            if factors <= columns:
                chosen[key] = factors
    return chosen


def whole_residuals(ranks: Ranks, evaluate: Callable[[], Tensor]) -> Tensor:
    """The residuals of the whole batch, (n·o,), each rank evaluating its own; all raise if one fails."""

    def evaluated() -> tuple[Tensor, int]:
        residuals = evaluate()
        return residuals.reshape(-1), residuals.numel()

    return _joined(ranks, *ranks.together(evaluated))


def _joined(ranks: Ranks, own: Tensor, sizes: Sequence[int]) -> Tensor:
    """Vectors end to end, rank by rank."""
    return torch.cat([part for (part,) in ranks.gather([own], [[(size,)] for size in sizes])])


def _factored(jacobian: Jacobian, names: Mapping[Tensor, str]) -> dict[Key, LinearBlock | EmbeddingBlock]:
    return {
        (block.kind, tuple(names[p] for p in block.parameters), tuple(f.dtype for f in block.factors)): block
        for block in jacobian.blocks
        if isinstance(block, LinearBlock | EmbeddingBlock)
    }


def _one_batch(parts: Sequence[Tensor]) -> Tensor:
    """Factors (o or 1, n_k, T_k, ·) of the ranks as (o or 1, n, T, ·): shorter sequences end with zeros."""
    lead, positions = max(part.shape[0] for part in parts), max(part.shape[2] for part in parts)
    return torch.cat([pad(p.expand(lead, -1, -1, -1), (0, 0, 0, positions - p.shape[2])) for p in parts], 1)


def _messages(sizes: Mapping[Key, int]) -> Iterator[list[Key]]:
    """Blocks that go in one message: as many as MESSAGE_BYTES hold, one at least."""
    message: list[Key] = []
    room = MESSAGE_BYTES
    for key, size in sizes.items():
        if message and size > room:
            yield message
            message, room = [], MESSAGE_BYTES
        message.append(key)
        room -= size
    if message:
        yield message


def _owners(blocks: Sequence[Block], ranks: int) -> list[int]:
    """For each block the rank that sums it up: the largest first, to whoever has least to do so far."""
    flops = [sum(plan.flops for plan in block.plans()) for block in blocks]
    load, owners = [0] * ranks, [0] * len(blocks)
    for index in sorted(range(len(blocks)), key=lambda i: -flops[i]):
        owners[index] = min(range(ranks), key=load.__getitem__)
        load[owners[index]] += flops[index]
    return owners


def _portions(parameters: Sequence[Tensor], columns: int) -> Iterator[list[tuple[Tensor, slice]]]:
    """Parts of the parameters' leading dimensions, as many at a time as so many columns hold; one entry at least."""
    portion: list[tuple[Tensor, slice]] = []
    room = columns
    for parameter in parameters:
        leading = parameter.shape[0] if parameter.dim() else 1
        width, start = max(1, as_real(parameter).numel() // max(1, leading)), 0
        while start < leading:
            taken = min(leading - start, max(room // width, 0 if portion else 1))
            if taken:
                portion.append((parameter, WHOLE if taken == leading else slice(start, start + taken)))
                start, room = start + taken, room - taken * width
            else:
                yield portion
                portion, room = [], columns
    if portion:
        yield portion
