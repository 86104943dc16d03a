"""Finds out which sample each row of a layer's output belongs to, and that it belongs to one sample only.

The structured rules need both facts, and neither can be read off the shapes: a sequence may run (n, T) or (T, n), a
layer may mix samples. So they are tested: scale the cotangent of sample i by a power of two c_i; the cotangents of a
row that serves sample i alone are then multiplied by exactly c_i, whatever the layers between do.
The test costs two backward passes; its certificate holds for later steps with the same signature (see signature.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rules import Layout, Rows, Use

__all__ = ["Certificate", "certify"]

# Scaling by powers of two commutes with rounding, so an independent row matches to the last bit on a CPU. The
# tolerance, in units of the machine epsilon, leaves room for sums that run in another order (CUDA's atomics).
TOLERANCE_IN_EPS = 64
SCALES = 8  # c_i is one of 2⁰ … 2⁷


@dataclass(frozen=True)
class Certificate:
    """What the test found.

    Attributes:
        layouts: For each use its layout, or None where rows mix samples or run in no known order.
        lasting: Whether the test saw enough (a nonzero cotangent for every sample, one layout that fits) to hold for
            later steps. Rows whose cotangents all vanish fit any layout, and contribute nothing to this step.
    """

    layouts: tuple[Layout | None, ...]
    lasting: bool


def certify(residuals: Tensor, uses: Sequence[Use], rows: Rows) -> Certificate:
    """Tests every use; the graph of ``residuals`` is kept."""
    samples = rows.samples
    if samples == 1 or not uses:
        return Certificate(tuple(next(iter(use.layouts(1)), None) for use in uses), True)
    # A generator of its own: the user's random numbers stay as they were.
    generator = torch.Generator().manual_seed(0)
    scales = 2.0 ** (torch.arange(samples) % SCALES)[torch.randperm(samples, generator=generator)]
    scales = scales.to(residuals).unsqueeze(1)  # (n, 1)
    base = torch.randn(samples, rows.outputs, generator=generator).to(residuals)

    edges = [use.edge for use in uses]
    plain = torch.autograd.grad(residuals, edges, base.view_as(residuals), retain_graph=True)
    scaled = torch.autograd.grad(residuals, edges, (base * scales).view_as(residuals), retain_graph=True)

    found = [_fit(use.layouts(samples), g, h, scales) for use, g, h in zip(uses, plain, scaled, strict=True)]
    return Certificate(tuple(layout for layout, _ in found), all(certain for _, certain in found))


def _fit(candidates: Sequence[Layout], plain: Tensor, scaled: Tensor, scales: Tensor) -> tuple[Layout | None, bool]:
    """The layout that explains how a use's cotangents changed, and whether it is the only one that could."""
    fitting = [layout for layout in candidates if _explains(layout, plain, scaled, scales)]
    if not fitting:
        return None, True
    every_sample_seen = bool((_by_sample(fitting[0], plain).abs().amax(1) > 0).all())
    return fitting[0], every_sample_seen and len(fitting) == 1


def _explains(layout: Layout, plain: Tensor, scaled: Tensor, scales: Tensor) -> bool:
    before, after = _by_sample(layout, plain), _by_sample(layout, scaled)  # (n, -1)
    error = (after - scales * before).abs().amax(1)
    bound = TOLERANCE_IN_EPS * torch.finfo(plain.dtype).eps * (scales * before).abs().amax(1)
    return bool((error <= bound).all())


def _by_sample(layout: Layout, tensor: Tensor) -> Tensor:
    return layout.split(tensor.unsqueeze(0))[0].flatten(1)
