"""The phases of GGN's step, each alone: forward, input gradients, Gram matrix, solve, update."""

from typing import ClassVar

import torch

from ggn_core.capture import named_trainable
from ggn_core.linear_system import AssembledSystem
from ggn_core.linearizer import Linearizer
from ggn_core.workspace import Workspace

from .networks import DEVICES, WIDTHS, mlp, synchronize

BATCH = 128
DAMPING = 10.0


class Phase:
    """One phase on a multilayer perceptron with three hidden layers."""

    params: ClassVar = [WIDTHS, DEVICES]
    param_names = ("width", "device")

    def setup(self, width: int, device: str) -> None:
        self.model, self.inputs, self.targets = mlp(width, BATCH, device)
        self.parameters = named_trainable(self.model)
        self.linearize = Linearizer()
        self.residuals = self.model(self.inputs) - self.targets
        with torch.no_grad():
            self.jacobian = self.linearize(self.residuals, self.parameters)  # what can be proved is remembered
            self.r = self.residuals.reshape(-1)
            self.workspace = Workspace()
            self.system = AssembledSystem(self.jacobian, self.r, None, self.workspace)
            self.v = self.system.solve(self.r, DAMPING).v
        synchronize(device)

    def time_forward(self, width: int, device: str) -> None:
        self.residuals = self.model(self.inputs) - self.targets
        synchronize(device)

    @torch.no_grad()
    def time_input_gradients(self, width: int, device: str) -> None:
        """Reading the graph, and one backward pass to the layers' outputs."""
        self.linearize(self.residuals, self.parameters)
        synchronize(device)

    @torch.no_grad()
    def time_gram(self, width: int, device: str) -> None:
        AssembledSystem(self.jacobian, self.r, None, self.workspace)
        synchronize(device)

    @torch.no_grad()
    def time_solve(self, width: int, device: str) -> None:
        self.system.solve(self.r, DAMPING)
        synchronize(device)

    @torch.no_grad()
    def time_update(self, width: int, device: str) -> None:
        self.system.add_transposed_(self.v, -1e-9)
        synchronize(device)
