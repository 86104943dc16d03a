"""The rule of convolutions, of any dimension, stride, padding, dilation and groups, transposed or not.

A sample's Jacobian row is the weight gradient of that sample alone. There are two ways to those of all samples:

- folded: one convolution backward with the batch folded into the channels, (1, R·c, …), in R times the groups;
- unfolded: one product a sample, of its cotangents with the windows of its input that the kernel has seen.

They are the same sums. The second copies each input as many times as the kernel has entries, which makes it the slower
one on a CPU, and asks of the device nothing but matrix products.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..choice import Choice, Chooser
from .base import WHOLE, Layout, cut, saved
from .recomputed import BYTES_AT_ONCE, parts
from .weight_and_bias import WeightAndBias

__all__ = ["RECOGNISERS", "ConvolutionUse"]

FOLDED, UNFOLDED = "folded", "unfolded"
COUNTED = Choice(FOLDED, "as many operations as unfolded, and fewer bytes")


@dataclass(frozen=True, eq=False)
class ConvolutionUse(WeightAndBias):
    """One convolution.

    Attributes:
        choice: Of the way to the weight's rows.
    """

    choice: Choice = COUNTED

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        if parameter is self.bias:
            by_row = cotangent.flatten(3).sum(3)  # (o, R, c)
            return cut(layout.split(by_row).sum(2), part)  # (o, n, T, c) -> (o, n, c)
        gradients = [self._weight_gradients(parameter, g, part) for g in cotangent]
        by_row = gradients[0].unsqueeze(0) if len(gradients) == 1 else torch.stack(gradients)  # (o, R, *weight.shape)
        return layout.split(by_row).sum(2) if layout.positions > 1 else by_row

    def _weight_gradients(self, weight: Tensor, cotangent: Tensor, part: slice) -> Tensor:
        """Each row's own weight gradient, (R, *weight.shape) cut to ``part``, for a cotangent (R, c_out, …)."""
        x: Tensor = saved(self.node, "input").to(cotangent.dtype)
        if saved(self.node, "groups") > 1 and part != WHOLE:  # which keeps weights small
            return self._weight_gradients(weight, cotangent, WHOLE)[:, part]
        # The leading dimension of the weight: its output channels, or its input channels if transposed.
        if saved(self.node, "transposed"):
            x = x[:, part]
        else:
            cotangent = cotangent[:, part]
        way = self._folded if self.choice.way == FOLDED else self._unfolded
        return way(weight, x, cotangent)

    def _folded(self, weight: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
        """(R, leading, …) for an input (R, c_in, …) and cotangents (R, c_out, …), one of which has leading channels."""
        node, transposed = self.node, saved(self.node, "transposed")
        rows, leading = x.shape[0], (x if transposed else cotangent).shape[1]
        gradients: Tensor = torch.ops.aten.convolution_backward(
            cotangent.reshape(1, -1, *cotangent.shape[2:]),
            x.reshape(1, -1, *x.shape[2:]),
            weight.new_empty(rows * leading, *weight.shape[1:]),  # its shape counts, its values do not
            None,
            saved(node, "stride"),
            saved(node, "padding"),
            saved(node, "dilation"),
            transposed,
            saved(node, "output_padding"),
            rows * saved(node, "groups"),
            [False, True, False],
        )[1]
        return gradients.view(rows, leading, *weight.shape[1:])

    def _unfolded(self, weight: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
        """The same. A transposed convolution is one from its output to its input: they change places."""
        fixed, seen = (x, cotangent) if saved(self.node, "transposed") else (cotangent, x)
        step = max(1, BYTES_AT_ONCE // max(1, fixed[0, 0].nbytes * seen.shape[1] * weight[0, 0].numel()))
        pieces = zip(torch.split(fixed, step), torch.split(seen, step), strict=True)
        groups = saved(self.node, "groups")
        gradients = [
            # (R·groups, leading/groups, T) @ (R·groups, T, c/groups·k)
            f.reshape(len(f) * groups, f.shape[1] // groups, -1) @ self._windows(s, f.shape[2:], weight).mT
            for f, s in pieces
        ]
        whole = gradients[0] if len(gradients) == 1 else torch.cat(gradients)
        return whole.view(*fixed.shape[:2], *weight.shape[1:])

    def _windows(self, x: Tensor, positions: Sequence[int], weight: Tensor) -> Tensor:
        """What the kernel sees at each of T positions, (R·groups, c/groups·k, T), of a tensor (R, c, …)."""
        node, dimensions = self.node, len(positions)
        padding, stride, dilation = (saved(node, name) for name in ("padding", "stride", "dilation"))
        if any(padding):
            x = torch.nn.functional.pad(x, [size for size in reversed(padding) for _ in range(2)])
        for axis, kernel in enumerate(weight.shape[2:]):
            x = x.unfold(2 + axis, dilation[axis] * (kernel - 1) + 1, stride[axis])
            x = x[..., :: dilation[axis]].narrow(2 + axis, 0, positions[axis])
        # (R, c, *positions, *kernel) -> (R, c, *kernel, *positions), so far a view
        kernels_first = (0, 1, *range(2 + dimensions, 2 + 2 * dimensions), *range(2, 2 + dimensions))
        return x.permute(kernels_first).reshape(len(x) * saved(node, "groups"), -1, math.prod(positions))

    def chosen(self, cotangent: Tensor, choose: Chooser) -> "ConvolutionUse":
        """The same use, its rows formed in the way that is chosen.

        Args:
            cotangent: ∂(output k, summed over samples)/∂z for every k: (o, *z.shape).
            choose: Chooses.
        """
        weight = self.weight
        if weight is None or not choose.measures(cotangent.device):
            return self
        one, x = cotangent[0], saved(self.node, "input")  # every output takes as long
        names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
        settings = tuple(str(saved(self.node, name)) for name in names)
        key = ("convolution", one.shape, one.stride(), x.shape, x.stride(), weight.shape, settings, one.dtype, x.dtype)
        part = next(parts(weight, len(x)))  # as much of the rows as may exist at a time

        def by(way: str) -> Callable[[], Tensor]:
            return lambda: replace(self, choice=Choice(way, ""))._weight_gradients(weight, one, part)

        choice = choose(COUNTED, key, {way: by(way) for way in (FOLDED, UNFOLDED)}, cotangent.device)
        return replace(self, choice=choice)


RECOGNISERS = {"ConvolutionBackward0": ConvolutionUse.recognised}
