"""Runs an LSTM as the operations it is made of.

On a CPU and in single precision, torch hands each layer of an LSTM to one kernel (oneDNN), of which the graph shows no
more than that: only the generic rule could serve it, dozens of times as slow. The same layer in torch's own operations
is sums of products like any other, of weights that are used at every time step. All other recurrent layers, and LSTMs
in double precision, come in that form anyway. On a GPU, cuDNN's kernels stay: what would replace them hides the biases.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["LSTMInParts", "holds_lstm", "in_parts"]

Result = TypeVar("Result")


def holds_lstm(model: nn.Module) -> bool:
    """Whether there is an LSTM among the modules."""
    return any(isinstance(module, nn.LSTM) for module in model.modules())


def in_parts(function: Callable[[], Result]) -> Callable[[], Result]:
    """The function, with the LSTMs that it calls run in parts."""

    def called() -> Result:
        with LSTMInParts():
            return function()

    return called


class LSTMInParts(TorchFunctionMode):
    """The context to run them in; it adds a microsecond to every function of torch that is called in it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not torch.lstm:
            return func(*args, **(kwargs or {}))
        # The flag belongs to the process: what other threads run meanwhile does without oneDNN as well.
        before = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            torch._C._set_mkldnn_enabled(before)
