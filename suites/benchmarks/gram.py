"""The Gram matrix: time, and error against the dense float64 Jacobian."""

import copy

import torch

from ggn_core import gram
from ggn_core.reference import dense_gram

from .networks import WORKLOADS, workload


class Gram:
    """``gram(model, inputs)`` on multilayer perceptrons."""

    params = list(WORKLOADS)
    param_names = ("workload",)

    def setup(self, name: str) -> None:
        self.model, self.inputs, _ = workload(name)
        gram(self.model, self.inputs)  # first-time costs

    def time_gram(self, name: str) -> None:
        gram(self.model, self.inputs)


class Exactness:
    """Relative error of the float32 Gram; small networks, whose dense Jacobian fits."""

    unit = "relative Frobenius error"

    def track_error(self) -> float:
        model, inputs, _ = workload("64-256x3-1, b=64")
        exact = dense_gram(copy.deepcopy(model).double(), inputs.double())
        error = gram(model, inputs).double() - exact
        return float(torch.linalg.matrix_norm(error) / torch.linalg.matrix_norm(exact))
