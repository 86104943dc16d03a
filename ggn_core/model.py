"""Calling a model on whatever inputs it takes."""

from torch import Tensor, nn

from .errors import ResidualsError

__all__ = ["call"]


def call(model: nn.Module, inputs: object) -> Tensor:
    """``model(inputs)``, with a tuple as arguments and a dict as named arguments.

    Raises:
        ResidualsError: The model did not return a tensor.
    """
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
