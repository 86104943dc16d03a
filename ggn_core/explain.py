"""Tells how the Gram matrix of a model comes about: which rule serves which parameters, why, and at what cost."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .capture import something_to_train
from .choice import Choose
from .jacobian import Jacobian
from .linearizer import Linearizer
from .model import call
from .precision import FullPrecision
from .rules.recomputed import RecomputedBlock
from .settings import ROW_MEMORY_GIB

__all__ = ["Explanation", "Share", "explain"]


@dataclass(frozen=True)
class Share:
    """What some parameters contribute, and cost.

    Attributes:
        parameters: Their names.
        rule: What serves them.
        why: The reason for this rule.
        flops: Floating-point operations of their share of the Gram matrix, a multiply-add counted as two; the backward
            passes that come before are not in it.
        memory: Bytes of what is kept for the update.
    """

    parameters: tuple[str, ...]
    rule: str
    why: str
    flops: int
    memory: int


@dataclass(frozen=True)
class Explanation:
    """The shares of a Gram matrix. ``print`` it for a table.

    Attributes:
        samples: n.
        outputs: o, of each sample.
        backward_passes: How many cotangents were carried back through the graph.
        shares: One for each large parameter, or for those that are treated together.
    """

    samples: int
    outputs: int
    backward_passes: int
    shares: tuple[Share, ...]

    def __str__(self) -> str:
        head = ("parameters", "rule", "GFLOP", "MiB", "why")
        lines = [head] + [
            (_listed(s.parameters), s.rule, f"{s.flops / 1e9:.3g}", f"{s.memory / 2**20:.3g}", s.why)
            for s in self.shares
        ]
        total = sum(s.flops for s in self.shares), sum(s.memory for s in self.shares)
        lines.append(("all", "", f"{total[0] / 1e9:.3g}", f"{total[1] / 2**20:.3g}", ""))
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        rows = self.samples * self.outputs
        title = (
            f"Gram matrix {rows} × {rows}: {self.samples} samples, {self.outputs} outputs, "
            f"{self.backward_passes} backward passes"
        )
        return "\n".join(line.rstrip() for line in (title, *table))


def explain(
    model: nn.Module, inputs: object, row_memory_gib: float = ROW_MEMORY_GIB, choose: Choose = "auto"
) -> Explanation:
    """Says which rule serves which parameters of a model on a batch, why, and at what cost.

    It goes as far as a step does before the Gram matrix is summed up, and costs as much.

    Args:
        model: Any module that returns a tensor of shape (n, ...): n samples.
        inputs: What the model takes: a tensor, a tuple of arguments, or a dict of named ones.
        row_memory_gib: As for GGN.
        choose: As for GGN.

    Raises:
        GGNError: As ``gram`` does.
    """
    names = something_to_train(model)
    with torch.enable_grad():
        outputs = call(model, inputs)
    with torch.no_grad(), FullPrecision(outputs.device.type):
        jacobian = Linearizer(row_memory_gib * 2**30, choose=choose)(outputs, names)
    rows = jacobian.rows
    shares = []
    for block in jacobian.blocks:
        for plan in block.plans():
            reasons = [jacobian.generic[p] for p in plan.parameters if p in jacobian.generic]
            ways = [f"{way.way}, {way.why}" for p in plan.parameters for way in jacobian.chosen.get(p, ())]
            rule, why = plan.rule, _joined([plan.why, *ways])
            if reasons:
                rule, why = rule.replace("explicit rows", "generic"), _joined(reasons)
            shares.append(Share(_names(plan.parameters, names), rule, why, plan.flops, plan.memory))
    return Explanation(rows.samples, rows.outputs, _backward_passes(jacobian), tuple(shares))


def _backward_passes(jacobian: Jacobian) -> int:
    """Up to the Gram matrix: one for each output serves all structured rules, one for each row the generic rule, which
    makes several rounds of them where its rows are not kept.
    """
    generic = [block for block in jacobian.blocks if block.parameters[0] in jacobian.generic]
    not_kept = [block for block in generic if isinstance(block, RecomputedBlock)]
    rounds = sum(block.times for block in not_kept) + (len(generic) > len(not_kept))
    structured = len(generic) < len(jacobian.blocks)
    return rounds * jacobian.rows.total + (jacobian.rows.outputs if structured else 0)


def _names(parameters: tuple[Tensor, ...], names: dict[Tensor, str]) -> tuple[str, ...]:
    return tuple(names[p] for p in parameters)


def _joined(reasons: list[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))


def _listed(names: tuple[str, ...], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
