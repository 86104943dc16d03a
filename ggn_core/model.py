"""Calling a model on whatever inputs it takes."""

import contextlib
import sys
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from .errors import ResidualsError
from .recurrent import LSTMInParts, holds_lstm

__all__ = ["as_written", "call"]


def call(model: nn.Module, inputs: object) -> Tensor:
    """``model(inputs)``, with a tuple as arguments and a dict as named arguments.

    Raises:
        ResidualsError: The model did not return a tensor.
    """
    with as_written(), LSTMInParts() if holds_lstm(model) else contextlib.nullcontext():
        if isinstance(inputs, tuple):
            outputs = model(*inputs)
        elif isinstance(inputs, dict):
            outputs = model(**inputs)
        else:
            outputs = model(inputs)
    if not isinstance(outputs, Tensor):
        raise ResidualsError(
            f"{type(model).__name__} returned {type(outputs).__name__}, not a tensor: "
            "wrap it in a module that picks the tensor to differentiate"
        )
    return outputs


def as_written() -> AbstractContextManager[None]:
    """Runs as written what ``torch.compile`` would replace: a compiled function is one node of the autograd graph.

    Which layer a parameter belongs to cannot be read from it, and its backward pass runs once only.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled, and its import takes a second
        return contextlib.nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
