"""The rule of group normalization: z = w ⊙ x̂ + c by channel, with x̂ the input normalized within each sample's groups.

A sample's Jacobian row is Σ g ⊙ x̂ for w and Σ g for c, summed over positions. The kernel of the backward pass computes
just that, without forming x̂, when the samples are folded into the channels: one sample with R·c channels in R times the
groups, whose weight gradient has one entry a row and a channel.
"""

import torch
from torch import Tensor

from .base import WHOLE, Layout, cut, saved
from .weight_and_bias import WeightAndBias

__all__ = ["RECOGNISERS", "GroupNormUse"]


class GroupNormUse(WeightAndBias):
    """One group normalization; its node holds the input, the groups' means and their inverse deviations."""

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        if parameter is self.bias:
            by_row = cotangent.flatten(3).sum(3)  # (o, R, c)
        else:
            by_row = torch.stack([self._weight_gradients(g) for g in cotangent])
        return cut(layout.split(by_row).sum(2), part)  # (o, n, T, c) -> (o, n, c)

    def _weight_gradients(self, cotangent: Tensor) -> Tensor:
        """Each row's own gradient of the weight, (R, c), for a cotangent (R, c, …)."""
        x, mean, rstd = (saved(self.node, name).to(cotangent.dtype) for name in ("input", "result1", "result2"))
        rows, channels = x.shape[:2]
        gradients: Tensor = torch.ops.aten.native_group_norm_backward(
            cotangent.contiguous().view(1, rows * channels, -1),
            x.contiguous().view(1, rows * channels, -1),
            mean.reshape(1, -1),
            rstd.reshape(1, -1),
            x.new_empty(rows * channels),  # the weight: its values do not count
            1,
            rows * channels,
            x[0, 0].numel(),
            mean.numel(),
            [False, True, False],
        )[1]
        return gradients.view(rows, channels)


RECOGNISERS = {"NativeGroupNormBackward0": GroupNormUse.recognised}
