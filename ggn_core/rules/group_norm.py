"""The rule of group normalization: z = w ⊙ x̂ + c by channel, with x̂ the input normalized within each sample's groups.

A sample's Jacobian row is Σ g ⊙ x̂ for w and Σ g for c, summed over positions. One pass over g and the input x finds
both, without forming x̂ = (x − mean) rstd:

    Σ g ⊙ x̂ = (Σ g ⊙ x − mean Σ g) rstd
"""

import weakref
from functools import cached_property

import torch
from torch import Tensor

from .base import WHOLE, Layout, cut, saved
from .weight_and_bias import WeightAndBias

__all__ = ["RECOGNISERS", "GroupNormUse"]

Pair = tuple[Tensor, Tensor]


class GroupNormUse(WeightAndBias):
    """One group normalization; its node holds the input, the groups' means and their inverse deviations."""

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        if all(of() is not cotangent for of in self._gradients):
            self._gradients.clear()
            one = cotangent.shape[0] == 1
            made = self._of_one_output(cotangent) if one else self._of_outputs(cotangent)
            self._gradients[weakref.ref(cotangent)] = made
        ((of_weight, of_bias),) = self._gradients.values()  # (o, R, c) each
        by_row = of_bias if parameter is self.bias else of_weight
        if self.weight is self.bias:
            by_row = of_weight + of_bias
        return cut(layout.split(by_row).sum(2), part)  # (o, n, T, c) -> (o, n, c)

    @cached_property
    def _gradients(self) -> dict[weakref.ref[Tensor], Pair]:
        """Those of the cotangent that was asked for last: weight and bias each ask for theirs. It is not held."""
        return {}

    def _of_one_output(self, cotangent: Tensor) -> Pair:
        """Each row's own gradients of weight and bias, (1, R, c), for a cotangent (1, R, c, …).

        From the kernel of the backward pass, which takes the rows for channels: one sample, with R·c of them in R times
        the groups.
        """
        x, mean, rstd = self._normalized(cotangent.dtype)
        rows, channels = x.shape[:2]
        _, weight, bias = torch.ops.aten.native_group_norm_backward(
            cotangent.contiguous().view(1, rows * channels, -1),
            x.view(1, rows * channels, -1),
            mean.reshape(1, -1),
            rstd.reshape(1, -1),
            x.new_empty(rows * channels),  # the weight: its values do not count
            1,
            rows * channels,
            x[0, 0].numel(),
            mean.numel(),
            [False, True, True],
        )
        return weight.view(1, rows, channels), bias.view(1, rows, channels)

    def _of_outputs(self, cotangent: Tensor) -> Pair:
        """The same, (o, R, c), for a cotangent (o, R, c, …): a product by row and channel, all outputs sharing x."""
        x, mean, rstd = self._normalized(cotangent.dtype)
        o, rows, channels = cotangent.shape[:3]
        g = cotangent.reshape(o, rows * channels, -1)
        factors = torch.stack([x.view(rows * channels, -1), x.new_ones(()).expand_as(g[0])], 1)  # (R·c, 2, s)
        sums = (factors @ g.permute(1, 2, 0)).view(rows, channels, 2, o)  # (R·c, 2, s) @ (R·c, s, o)
        with_x, alone = sums.permute(2, 3, 0, 1)  # (o, R, c) each
        by_channel = channels // mean.shape[1]
        mean, rstd = (of_group.repeat_interleave(by_channel, 1) for of_group in (mean, rstd))  # (R, groups) -> (R, c)
        return (with_x - mean * alone) * rstd, alone

    def _normalized(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The input (R, c, …) and, of its groups, means and inverse deviations (R, groups)."""
        x, mean, rstd = (saved(self.node, name).to(dtype) for name in ("input", "result1", "result2"))
        return x.contiguous(), mean.reshape(len(x), -1), rstd.reshape(len(x), -1)


RECOGNISERS = {"NativeGroupNormBackward0": GroupNormUse.recognised}
