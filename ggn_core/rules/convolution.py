"""The rule of convolutions, of any dimension, stride, padding, dilation and groups, transposed or not.

A sample's Jacobian row is the weight gradient of that sample alone. There are two ways to those of all samples:

- folded: one convolution backward with the batch folded into the channels, (1, R·c, …), in R times the groups;
- unfolded: one product a sample, of its cotangents with the windows of its input that the kernel has seen.

They are the same sums. The first has its result copied, out of the order in which the kernel of a CPU computes it: o p
entries for each of a kernel's c k², with p channels of the output and o outputs of the network. The second copies the
windows: T entries for each of those, with T positions. So early layers, of large images and few channels, are folded,
and late ones unfolded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..choice import Choice, Chooser
from .base import WHOLE, Layout, cut, saved
from .recomputed import BYTES_AT_ONCE, parts
from .weight_and_bias import WeightAndBias

__all__ = ["RECOGNISERS", "ConvolutionUse"]

FOLDED, UNFOLDED = "folded", "unfolded"

# Entries of rows for one of windows, from which on the second way is the faster one on a CPU. At 1 it takes 0.6 to 1.4
# times as long as the first, at 1.25 0.8 to 1.1 times; from 2 on it takes longer by a sixth at the most, at 5 half as
# long.
ROWS_OVER_WINDOWS = 1.25

UNCHOSEN = Choice(FOLDED, "")


@dataclass(frozen=True, eq=False)
class ConvolutionUse(WeightAndBias):
    """One convolution.

    Attributes:
        choice: Of the way to the weight's rows.
    """

    choice: Choice = UNCHOSEN

    def jacobian_rows(self, parameter: Tensor, cotangent: Tensor, layout: Layout, part: slice = WHOLE) -> Tensor:
        if parameter is self.bias:
            by_row = cotangent.flatten(3).sum(3)  # (o, R, c)
            return cut(layout.split(by_row).sum(2), part)  # (o, n, T, c) -> (o, n, c)
        by_row = self._weight_rows(parameter, cotangent, part)  # (o, R, *weight.shape)
        return layout.split(by_row).sum(2) if layout.positions > 1 else by_row

    def _weight_rows(self, weight: Tensor, cotangent: Tensor, part: slice = WHOLE) -> Tensor:
        """Each output's and row's own weight gradient, (o, R, *weight.shape) cut to ``part``."""
        x: Tensor = saved(self.node, "input").to(cotangent.dtype)
        if saved(self.node, "groups") > 1 and part != WHOLE:  # which keeps weights small
            return self._weight_rows(weight, cotangent)[:, :, part]
        # The leading dimension of the weight: its output channels, or its input channels if transposed.
        if saved(self.node, "transposed"):
            x = x[:, part]
        else:
            cotangent = cotangent[:, :, part]
        if self.choice.way == UNFOLDED:
            return self._unfolded(weight[part], x, cotangent)
        gradients = [self._folded(weight, x, g) for g in cotangent]
        return gradients[0].unsqueeze(0) if len(gradients) == 1 else torch.stack(gradients)

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
        """Those of all outputs, (o, R, *weight.shape), for an input (R, c_in, …) and cotangents (o, R, c_out, …).

        A transposed convolution is one from its output to its input: they change places.
        """
        if saved(self.node, "transposed"):
            fixed, seen = x.expand(len(cotangent), *x.shape), cotangent
        else:
            fixed, seen = cotangent, x.unsqueeze(0)  # (1, R, c, …): all outputs share its windows
        rows = cotangent.new_empty(*cotangent.shape[:2], *weight.shape)
        kernel, positions, groups = weight.shape[2:], fixed.shape[3:], saved(self.node, "groups")
        window_bytes = fixed[0, 0, 0].nbytes * seen.shape[2] * math.prod(kernel)  # of one row's
        at_once = max(1, BYTES_AT_ONCE // max(1, window_bytes))
        for start in range(0, len(x), at_once):
            piece = slice(start, start + at_once)
            for k, of_output in enumerate(rows):
                if k < len(seen):
                    windows = self._windows(seen[k, piece], kernel, positions)
                out, f = of_output[piece], fixed[k, piece]
                by_group = (len(out) * groups, out.shape[1] // groups, -1)
                # (R·groups, leading/groups, T) @ (R·groups, T, c/groups·k)
                torch.bmm(f.reshape(by_group), windows.mT, out=out.view(by_group))
        return rows

    def _windows(self, x: Tensor, kernel: Sequence[int], positions: Sequence[int]) -> Tensor:
        """What the kernel sees at each of T positions, (R·groups, c/groups·k, T), of a tensor (R, c, …)."""
        node, dimensions = self.node, len(positions)
        padding, stride, dilation = (saved(node, name) for name in ("padding", "stride", "dilation"))
        if any(padding):
            x = torch.nn.functional.pad(x, [size for size in reversed(padding) for _ in range(2)])
        for axis, size in enumerate(kernel):
            x = x.unfold(2 + axis, dilation[axis] * (size - 1) + 1, stride[axis])
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
        if weight is None:
            return self
        counted = self._counted(weight, cotangent)
        if not choose.measures(cotangent.device):
            return replace(self, choice=counted)
        one, x = cotangent[:1], saved(self.node, "input")  # every output takes as long
        names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
        settings = tuple(str(saved(self.node, name)) for name in names)
        key = ("convolution", one.shape, one.stride(), x.shape, x.stride(), weight.shape, settings, one.dtype, x.dtype)
        part = next(parts(weight, len(x)))  # as much of the rows as may exist at a time

        def by(way: str) -> Callable[[], Tensor]:
            return lambda: replace(self, choice=Choice(way, ""))._weight_rows(weight, one, part)

        choice = choose(counted, key, {way: by(way) for way in (FOLDED, UNFOLDED)}, cotangent.device)
        return replace(self, choice=choice)

    def _counted(self, weight: Tensor, cotangent: Tensor) -> Choice:
        """The way that copies less; both take as many multiply-adds."""
        transposed = saved(self.node, "transposed")
        positions = math.prod((saved(self.node, "input") if transposed else cotangent[0]).shape[2:])
        # Those of all outputs share windows; where it is the convolution's output that is seen, each has its own.
        channels = (1 if transposed else len(cotangent)) * weight.shape[0] // saved(self.node, "groups")
        return _fewer_copied(channels, positions)


@lru_cache  # a step asks for every layer
def _fewer_copied(channels: int, positions: int) -> Choice:
    way = UNFOLDED if channels >= ROWS_OVER_WINDOWS * positions else FOLDED
    return Choice(way, f"for an entry of a kernel, rows have {channels} entries to copy, windows {positions}")


RECOGNISERS = {"ConvolutionBackward0": ConvolutionUse.recognised}
