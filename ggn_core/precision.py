"""Full precision for the step's own products, whatever the user allows for those of the model.

TF32 has 10 bits of mantissa and bfloat16 has 7. A residual may well be computed with so few, it is a number like any
other. The Gram matrix may not: its condition number is that of the Jacobian squared, and the damping is added to what
its rounding errors leave. So from the backward passes on, float32 means 24 bits, and nothing is cast by
``torch.autocast``; the closure runs under the user's settings, and so does the model in ``gram``.

PyTorch has an old set of flags (``allow_tf32``, ``set_float32_matmul_precision``) and a new one (``fp32_precision``).
The kernels read the new one, to which the old ones write. Reading an old flag raises where the two disagree, reading
and writing a new one never does: only the new ones are touched here. They form a tree, general, by backend, by
operation, in which a node without a value of its own has its parent's. Going from the root to the leaves, what still
reads as less than full after its parent was set has a value of its own, and gets that back in the end.

The flags belong to the process, so models that other threads run meanwhile compute in full precision too.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FullPrecision"]

Closure = Callable[[], Tensor]

# Device type -> the flags of what a step computes there, from the root to the leaves. The last three decide.
FLAGS = {
    "cpu": (("generic", "all"), ("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")),
    "cuda": (("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn")),
}
OPERATIONS = slice(-3, None)
FULL = "ieee"
REDUCED = ("tf32", "bf16")

precision_of = torch._C._get_fp32_precision_getter  # torch.backends.*.fp32_precision, without the detour
set_precision = torch._C._set_fp32_precision_setter


class FullPrecision:
    """A context in which float32 products are computed as such. It waits for no device, and may be nested.

    Args:
        device: The type of the device that computes, such as "cuda".
    """

    def __init__(self, device: str):
        self._device = device
        self._flags = FLAGS.get(device, ())
        self._raised: list[tuple[str, str, str]] = []
        self._autocast = False

    def __enter__(self) -> "FullPrecision":
        self._autocast = torch.is_autocast_enabled(self._device)
        if self._autocast:
            torch.set_autocast_enabled(self._device, False)
        for flag in self._flags[OPERATIONS]:
            if precision_of(*flag) in REDUCED:
                self._raise_all()
        return self

    def _raise_all(self) -> None:
        for backend, operation in self._flags:
            value = precision_of(backend, operation)
            if value != FULL:
                set_precision(backend, operation, FULL)
                self._raised.append((backend, operation, value))

    def __exit__(self, *error: object) -> None:
        while self._raised:
            set_precision(*self._raised.pop())
        if self._autocast:
            torch.set_autocast_enabled(self._device, True)
            torch.clear_autocast_cache()  # which holds the weights as they were before the step

    def outside(self, closure: Closure) -> Closure:
        """The closure, to be called from inside, under the user's settings."""
        if not self._raised and not self._autocast:
            return closure

        def called() -> Tensor:
            self.__exit__()
            try:
                return closure()
            finally:
                self.__enter__()

        return called
