"""The Gram matrix as an operator: G v without assembling G.

G v = J (Jᵀ v). The transpose is a backward pass. The product with J comes from the same graph: u ↦ Jᵀ u is linear, so
its own derivative, transposed, is J; the backward pass is recorded once and differentiated (a "double backward").
The model runs once, when the operator is made, so random layers keep their draw and nothing is asked of how samples
depend on each other: batch normalization in training mode is fine.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .capture import something_to_train
from .errors import ResidualsError, UnsupportedError
from .jacobian import as_rows
from .model import call

__all__ = ["GramOperator"]


class GramOperator:
    """The linear operator v ↦ J Jᵀ v of a model on a batch.

    It costs a backward pass and a double backward pass a product, whatever the number of outputs, and the memory of
    both graphs. For up to a few hundred rows ``gram`` is faster; the operator serves thousands.

    Args:
        model: Any module that returns a tensor.
        inputs: What the model takes: a tensor, a tuple of arguments, or a dict of named ones.

    Attributes:
        shape: (n·o, n·o), rows in the order of ``model(inputs).reshape(-1)``.
        dtype: Of the outputs.
        device: Of the outputs.

    Raises:
        ResidualsError: The model has no trainable parameters, or its output cannot be differentiated.
        UnsupportedError: At the first product: an operation of the model has no second derivative in PyTorch.
    """

    def __init__(self, model: nn.Module, inputs: object):
        parameters = something_to_train(model)
        # Fused attention has no second derivative; the plain one computes the same.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self._outputs = call(model, inputs)
            as_rows(self._outputs)
            self._parameters = list(parameters)
            # The values of u do not matter: Jᵀ u is linear in it.
            self._u = torch.zeros_like(self._outputs, requires_grad=True)
            self._pulled = torch.autograd.grad(
                self._outputs, self._parameters, self._u, create_graph=True, materialize_grads=True
            )
        size = self._outputs.numel()
        self.shape = (size, size)
        self.dtype, self.device = self._outputs.dtype, self._outputs.device

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

    def _product(self, v: Tensor) -> Tensor:
        transposed = torch.autograd.grad(
            self._outputs, self._parameters, v.view_as(self._outputs), retain_graph=True, materialize_grads=True
        )
        forward = [(g, w) for g, w in zip(self._pulled, transposed, strict=True) if g.requires_grad]
        try:
            (product,) = torch.autograd.grad(
                [g for g, _ in forward], self._u, [w for _, w in forward], retain_graph=True
            )
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise UnsupportedError(f"{error}: the operator needs second derivatives; gram() does not") from error
        return product.reshape(-1)


def _over_columns(product: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
    try:
        return torch.func.vmap(product, in_dims=1, out_dims=1)(columns)
    except RuntimeError:  # a backward function that cannot be vectorised; any other error comes up again
        return torch.stack([product(column) for column in columns.T], 1)
