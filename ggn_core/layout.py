"""Finds out which sample each row of a layer's output belongs to, and that it belongs to one sample only.

The structured rules need both facts, and neither can be read off the shapes: a sequence may run (n, T) or (T, n), a
layer may mix samples. Where rowwise.py proves both, that is the end of it. Elsewhere they are tested, at every step,
since values may decide: scale the cotangent of sample i by a power of two c_i, all different; the cotangents of a row
that serves sample i alone are then multiplied by exactly c_i, whatever the layers between do. A test costs two
backward passes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .backward import backward_passes
from .rowwise import Place, places
from .rules import Layout, Rows, Use
from .rules.base import output_shape

__all__ = ["layout_by_proof", "layouts_by_proof", "layouts_by_test"]

# Scaling by powers of two commutes with rounding, so on a CPU an independent row matches to the last bit. On a GPU
# atomics may add in another order: there the tolerance, in units of the machine epsilon, leaves room.
TOLERANCE_IN_EPS = {"cpu": 0, "cuda": 64}
EXPONENTS = range(-32, 65)  # of c_i: far from under- and overflow for cotangents of any reasonable size


def layouts_by_proof(residuals: Tensor, uses: Sequence[Use], rows: Rows) -> tuple[Layout | None, ...]:
    """For each use the layout of its output, or None where there is no proof of one; it holds for all equal graphs.

    Args:
        residuals: With their graph.
        uses: Of parameters.
        rows: The shape of the residuals.
    """
    if rows.samples == 1 or not uses:
        return tuple(next(iter(use.layouts(1)), None) for use in uses)
    assert residuals.grad_fn is not None
    found = places(residuals.grad_fn, tuple(residuals.shape), rows.samples) if residuals.output_nr == 0 else {}
    return tuple(layout_by_proof(use, found.get((use.edge.node, use.edge.output_nr)), rows.samples) for use in uses)


def layout_by_proof(use: Use, place: Place | None, samples: int) -> Layout | None:
    """The layout of a place in the use's output, if there is a proof of one and the use can work with it."""
    layout = None if place is None else place.layout(output_shape(use.edge.node), samples)
    return layout if layout in use.layouts(samples) else None


def layouts_by_test(residuals: Tensor, uses: Sequence[Use], rows: Rows) -> list[Layout | None]:
    """For each use the layout that a test finds, or None where rows mix samples or run in no known order.

    It holds for these residuals; their graph is kept.
    """
    if rows.samples == 1 or residuals.dtype == torch.float16:  # too few exponents for a test
        return [None] * len(uses)
    # A generator of its own: the user's random numbers stay as they were.
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(rows.samples, rows.outputs, generator=generator).to(residuals)
    edges = [use.edge for use in uses]

    def pulled(scales: Tensor | float) -> tuple[Tensor, ...]:
        cotangent = (base * scales).view_as(residuals)
        return tuple(g.squeeze(0) for g in backward_passes(residuals, edges, cotangent.unsqueeze(0)))

    plain = pulled(1.0)
    candidates = [list(use.layouts(rows.samples)) for use in uses]
    for scales in _codes(rows.samples, generator):
        scales = scales.to(residuals).unsqueeze(1)  # (n, 1)
        scaled = pulled(scales)
        candidates = [
            [layout for layout in fitting if _explains(layout, g, h, scales)]
            for fitting, g, h in zip(candidates, plain, scaled, strict=True)
        ]
    return [next(iter(fitting), None) for fitting in candidates]


def _codes(samples: int, generator: torch.Generator) -> list[Tensor]:
    """Scales (n,) such that any two samples differ in at least one of them; a single code where there are enough."""
    numbers = torch.randperm(samples, generator=generator)
    codes = []
    while True:
        codes.append(2.0 ** (numbers % len(EXPONENTS) + EXPONENTS.start))
        numbers = numbers // len(EXPONENTS)
        if not bool(numbers.any()):
            return codes


def _explains(layout: Layout, plain: Tensor, scaled: Tensor, scales: Tensor) -> bool:
    if plain.numel() == 0:
        return True
    before, after = _by_sample(layout, plain), _by_sample(layout, scaled)  # (n, -1)
    expected = scales.to(before.dtype) * before
    error = (after - expected).abs().amax(1)
    tolerance = TOLERANCE_IN_EPS.get(plain.device.type, TOLERANCE_IN_EPS["cuda"])
    bound = tolerance * torch.finfo(plain.dtype).eps * expected.abs().amax(1)
    return bool((error <= bound).all())


def _by_sample(layout: Layout, tensor: Tensor) -> Tensor:
    return layout.split(tensor.unsqueeze(0))[0].flatten(1)
