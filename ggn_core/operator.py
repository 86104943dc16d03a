"""The Gram matrix as an operator: G v without assembling G.

G v = J (Jᵀ v). The transpose is a backward pass. The product with J comes from the same graph: u ↦ Jᵀ u is linear, so
its own derivative, transposed, is J; the backward pass is recorded once and differentiated (a "double backward").
The model runs once, when the operator is made, so random layers keep their draw and nothing is asked of how samples
depend on each other: batch normalization in training mode is fine.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .capture import something_to_train
from .errors import ResidualsError, UnsupportedError
from .model import call
from .precision import FullPrecision
from .residuals import as_rows, check_finite

__all__ = ["GramOperator", "twice_differentiable"]


class GramOperator:
    """The linear operator v ↦ J Jᵀ v of a model on a batch.

    It costs a backward pass and a double backward pass a product, whatever the number of outputs, and the memory of
    both graphs. For up to a few hundred rows ``gram`` is faster; the operator serves thousands.

    Args:
        model: Any module that returns a tensor.
        inputs: What the model takes: a tensor, a tuple of arguments, or a dict of named ones.

    Attributes:
        rows: Samples and outputs.
        shape: (n·o, n·o), rows in the order of ``model(inputs).reshape(-1)``.
        dtype: Of the outputs.
        device: Of the outputs.

    Raises:
        ResidualsError: The model has no trainable parameters, or its output cannot be differentiated.
        UnsupportedError: At the first product: an operation of the model has no second derivative in PyTorch.
    """

    def __init__(self, model: nn.Module, inputs: object):
        parameters = something_to_train(model)
        with torch.enable_grad(), twice_differentiable():
            outputs = call(model, inputs)
        self._record(outputs, list(parameters))

    @classmethod
    def from_residuals(cls, residuals: Tensor, parameters: Sequence[Tensor]) -> "GramOperator":
        """The operator of residuals that have been computed already, of any shape, with their graph.

        Where the model uses attention, compute them within ``twice_differentiable()``.
        """
        operator = cls.__new__(cls)
        operator._record(residuals, list(parameters))
        return operator

    def _record(self, outputs: Tensor, parameters: list[Tensor]) -> None:
        self.rows = as_rows(outputs)
        check_finite(outputs)
        self._outputs, self._parameters = outputs, parameters
        with torch.enable_grad(), FullPrecision(outputs.device.type):
            # The values of u do not matter: Jᵀ u is linear in it.
            self._u = torch.zeros_like(outputs, requires_grad=True)
            self._pulled = torch.autograd.grad(outputs, parameters, self._u, create_graph=True, materialize_grads=True)
        self.shape = (outputs.numel(), outputs.numel())
        self.dtype, self.device = outputs.dtype, outputs.device

    def __matmul__(self, v: Tensor) -> Tensor:
        """G v, for v of shape (n·o,), or of shape (n·o, k) for k products at once."""
        if v.dim() not in (1, 2) or v.shape[0] != self.shape[0]:
            raise ResidualsError(
                f"expected a vector ({self.shape[0]},) or columns ({self.shape[0]}, k), got {tuple(v.shape)}"
            )
        v = v.to(self._outputs)
        if v.dim() == 1:
            return self._product(v)
        return _over_columns(self._product, v)

    def transposed(self, v: Tensor) -> tuple[Tensor, ...]:
        """Jᵀ v for v of shape (n·o,): a tensor for each parameter."""
        with FullPrecision(self.device.type):
            parts = torch.autograd.grad(
                self._outputs, self._parameters, v.view_as(self._outputs), retain_graph=True, materialize_grads=True
            )
        return tuple(part.to_dense() if part.is_sparse else part for part in parts)

    def product(self, direction: Sequence[Tensor]) -> Tensor:
        """J u, of shape (n·o,), for a direction u with a tensor for each parameter."""
        forward = [(g, w) for g, w in zip(self._pulled, direction, strict=True) if g.requires_grad]
        try:
            with FullPrecision(self.device.type):
                (product,) = torch.autograd.grad(
                    [g for g, _ in forward], self._u, [w for _, w in forward], retain_graph=True
                )
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise UnsupportedError(f"{error}: the operator needs second derivatives; gram() does not") from error
        return product.reshape(-1)

    def _product(self, v: Tensor) -> Tensor:
        return self.product(self.transposed(v))


def twice_differentiable() -> AbstractContextManager[None]:
    """Within it, attention runs the plain kernel: the fused ones have no second derivative. Both compute the same."""
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def _over_columns(product: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
    try:
        return torch.func.vmap(product, in_dims=1, out_dims=1)(columns)
    except RuntimeError:  # a backward function that cannot be vectorised; any other error comes up again
        return torch.stack([product(column) for column in columns.T], 1)
