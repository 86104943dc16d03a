"""The peers: each library behind one protocol, called as its documentation shows."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["OURS", "PEERS", "RIVALS", "Peer", "first_order", "installed_version"]

Gram = Callable[[], Tensor]
Step = Callable[[], object]


class Peer(Protocol):
    """A library. What it prepares once, an engine or a copy, is not part of the returned call, which is timed.

    Attributes:
        title: Shown in tables and figures.
        distribution: Its name in the package registry.
    """

    title: str
    distribution: str

    def gram(self, model: nn.Module, inputs: Tensor) -> Gram | None:
        """A call that returns G = J Jᵀ of shape (n·o, n·o), rows in the order of ``model(inputs).reshape(-1)``; None
        where the library offers no Gram matrix.
        """

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, lr: float, damping: float) -> Step | None:
        """A call that updates the model, w ← w − lr Jᵀ (G + damping·I)⁻¹ (f − y); None where there is no such step."""


class Ours:
    title = "ggn_core (ours)"
    distribution = "gram-gauss-newton"

    def gram(self, model: nn.Module, inputs: Tensor) -> Gram:
        from ggn_core import gram

        return lambda: gram(model, inputs)

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, lr: float, damping: float) -> Step:
        from ggn_core import GGN

        optimizer = GGN(model, lr=lr, damping=damping)
        return lambda: optimizer.step(lambda: model(inputs) - targets)


class TorchFunc:
    """PyTorch's tutorial "Neural Tangent Kernels", method 1: contraction of per-sample Jacobians."""

    title = "torch.func"
    distribution = "torch"

    def gram(self, model: nn.Module, inputs: Tensor) -> Gram:
        from torch.func import functional_call, jacrev, vmap

        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def single(p: dict[str, Tensor], x: Tensor) -> Tensor:
            output: Tensor = functional_call(model, p, (x.unsqueeze(0),)).squeeze(0)
            return output

        def call() -> Tensor:
            jacobians = vmap(jacrev(single), (None, 0))(parameters, inputs)
            rows = [j.flatten(2) for j in jacobians.values()]  # (n, o, *shape) -> (n, o, P of one parameter)
            gram = torch.stack([torch.einsum("Naf,Mbf->NaMb", j, j) for j in rows]).sum(0)  # (n, o, n, o)
            return gram.flatten(2).flatten(0, 1)  # (n·o, n·o)

        return call

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, lr: float, damping: float) -> None:
        return None


class TorchJD:
    """Its step is its documented use: weights from the Gramian, one backward pass with them, then SGD."""

    title = "TorchJD"
    distribution = "torchjd"

    def gram(self, model: nn.Module, inputs: Tensor) -> Gram:
        from torchjd.autogram import Engine

        engine = Engine(model, batch_dim=0)
        return lambda: engine.compute_gramian(model(inputs)).detach()

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, lr: float, damping: float) -> Step:
        from torchjd.autogram import Engine

        engine = Engine(model, batch_dim=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)

        def step() -> None:
            optimizer.zero_grad()
            outputs = model(inputs)
            gram = engine.compute_gramian(outputs).detach()
            residuals = (outputs.detach() - targets).reshape(-1, 1)
            damped = gram + damping * torch.eye(len(gram), dtype=gram.dtype)
            v = torch.cholesky_solve(residuals, torch.linalg.cholesky(damped))
            outputs.backward(v.view_as(outputs))
            optimizer.step()

        return step


class NNGeometry:
    title = "nngeometry"
    distribution = "nngeometry"

    def gram(self, model: nn.Module, inputs: Tensor) -> Gram:
        from nngeometry import GramMatrix
        from torch.utils.data import DataLoader, TensorDataset

        # It wants targets in the loader and does not read them here.
        loader = DataLoader(TensorDataset(inputs, torch.zeros(len(inputs))), batch_size=len(inputs))

        def call() -> Tensor:
            gram: Tensor = GramMatrix(model=model, loader=loader).to_torch()  # (o, n, o, n)
            return gram.permute(1, 0, 3, 2).flatten(2).flatten(0, 1).detach()  # (n·o, n·o)

        return call

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, lr: float, damping: float) -> None:
        return None


class TorchLM:
    title = "torch-levenberg-marquardt"
    distribution = "torch-levenberg-marquardt"

    def gram(self, model: nn.Module, inputs: Tensor) -> None:
        return None

    def step(self, model: nn.Module, inputs: Tensor, targets: Tensor, lr: float, damping: float) -> Step:
        import torch_levenberg_marquardt as tlm

        # It scales J Jᵀ by 1/n, hence the damping too. No attempts: the bare step, without testing whether the loss
        # fell, which would cost it another forward pass.
        module = tlm.training.LevenbergMarquardtModule(
            model=model,
            loss_fn=tlm.loss.MSELoss(),
            damping_strategy=tlm.damping.StandardDampingStrategy(starting_value=damping / len(inputs)),
            learning_rate=lr,
            attempts_per_step=0,
            solve_method="cholesky",
        )
        return lambda: module.training_step(inputs, targets)


OURS = "ours"
PEERS: dict[str, Peer] = {
    OURS: Ours(),
    "torch.func": TorchFunc(),
    "torchjd": TorchJD(),
    "nngeometry": NNGeometry(),
    "torch-lm": TorchLM(),
}


def first_order(kind: Callable[..., torch.optim.Optimizer], model: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    """A first-order step on the same loss; its learning rate is too small to change the work."""
    optimizer = kind(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _fused_adam(parameters: object, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)  # type: ignore[arg-type]


RIVALS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adam-fused": _fused_adam,
}


def installed_version(distribution: str) -> str | None:
    """The version in this environment, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
