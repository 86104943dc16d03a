"""Products with the Gram matrix, nothing assembled."""

from typing import ClassVar

import torch

from ggn_core import GramOperator

from .networks import BATCHES, DEVICES, WIDTHS, mlp, synchronize


class Operator:
    """``GramOperator(model, inputs)`` on multilayer perceptrons with three hidden layers."""

    params: ClassVar = [WIDTHS, BATCHES, DEVICES]
    param_names = ("width", "batch", "device")

    def setup(self, width: int, batch: int, device: str) -> None:
        self.model, self.inputs, targets = mlp(width, batch, device)
        self.operator = GramOperator(self.model, self.inputs)
        self.v = targets.reshape(-1)
        self.time_product(width, batch, device)  # first-time costs

    def time_product(self, width: int, batch: int, device: str) -> torch.Tensor:
        product = self.operator @ self.v
        synchronize(device)
        return product
