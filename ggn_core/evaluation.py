"""The residuals at other parameters, everything else being equal: what a search compares the steps by.

Each evaluation of one step sees the same random numbers (dropout draws once a step) and leaves no trace in the
model's buffers (running statistics move once a step). The closure must return the residuals of the same batch again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from .direction import Direction
from .errors import ResidualsError
from .linear_system import LinearSystem

__all__ = ["Evaluations", "Start"]


class Evaluations:
    """Evaluates the closure at trial parameters.

    Made before the step's first evaluation, whose random numbers it repeats; ``begin`` comes after.

    Args:
        closure: Returns the residuals.
        model: Whose buffers are kept.
        parameters: Those that move.
        whole: Makes the whole batch's residuals of a function that evaluates this process's, as ``residuals`` returns
            them; None where they are the same.
    """

    def __init__(
        self,
        closure: Callable[[], Tensor],
        model: nn.Module,
        parameters: Sequence[Tensor],
        whole: Callable[[Callable[[], Tensor]], Tensor] | None = None,
    ):
        self._closure = closure
        self._whole = whole
        self._model = model
        self._parameters = list(parameters)
        self._devices = sorted({p.get_device() for p in parameters if p.is_cuda})
        self._random = torch.random.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self._devices]
        self._before: list[Tensor] = []
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []

    def begin(self, residuals: Tensor) -> None:
        """Remembers parameters and buffers as they are after the first evaluation."""
        self._shape = residuals.shape
        self._before = [p.clone() for p in self._parameters]
        self._buffers = [
            (module, name, buffer, buffer.clone())
            for module in self._model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def residuals(self, direction: Direction, length: float) -> Tensor:
        """The residuals at w − s·lr·Δ, where the parameters stay.

        Args:
            direction: Complete.
            length: s.

        Raises:
            ResidualsError: Their shape is not that of the first evaluation.
        """
        if self._whole is None:
            return self._moved(direction, length)
        return self._whole(lambda: self._moved(direction, length))

    def _moved(self, direction: Direction, length: float) -> Tensor:
        with self._unseen_by_autograd():
            self.put_back()
            direction.move_(length)
            try:
                residuals = self._evaluate()
            finally:
                self._put_buffers_back()
        if not isinstance(residuals, Tensor) or residuals.shape != self._shape:
            raise ResidualsError(
                f"the closure returned residuals of shape {tuple(self._shape)} first, and something else when the "
                "search called it again: it must return the residuals of the same batch each time"
            )
        return residuals.detach()

    def put_back(self) -> None:
        """The parameters as they were, bit for bit."""
        with self._unseen_by_autograd():
            torch._foreach_copy_(self._parameters, self._before)

    def accept(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Leaves the parameters where they are, less the decay of where they were; tells autograd that they moved."""
        before = dict(zip(self._parameters, self._before, strict=True))
        for group in groups:
            for p in group["params"]:
                if p in before:
                    torch.autograd.graph.increment_version(p)
                    if group["weight_decay"]:
                        p.sub_(before[p], alpha=float(group["lr"]) * group["weight_decay"])

    def _unseen_by_autograd(self) -> AbstractContextManager[None]:
        """For changes that will be undone to the last bit before the graph of the first evaluation is used again."""
        tensors = (*self._parameters, *(buffer for _, _, buffer, _ in self._buffers))
        context: AbstractContextManager[None] = torch.autograd.grad_mode._unsafe_preserve_version_counter(tensors)
        return context

    def _evaluate(self) -> Tensor:
        # No graph is wanted, and the closure may need one of its own, of derivatives with respect to inputs say: so the
        # parameters stop requiring gradients, and gradient mode stays on.
        for p in self._parameters:
            p.requires_grad_(False)
        try:
            with torch.random.fork_rng(self._devices, enabled=True), torch.enable_grad():
                torch.random.set_rng_state(self._random[0])
                for device, state in zip(self._devices, self._random[1], strict=True):
                    torch.cuda.set_rng_state(state, device)
                return self._closure()
        finally:
            for p in self._parameters:
                p.requires_grad_(True)

    def _put_buffers_back(self) -> None:
        for module, name, buffer, value in self._buffers:
            module._buffers[name] = buffer
            buffer.copy_(value)


class Start:
    """Where the step starts: what a search sees (``search.Point``), made of evaluations and directions.

    Args:
        evaluations: Of this step.
        residuals: Of the first evaluation.
        system: Of the step; gives residuals and weights.
        towards: Makes a direction, from damping and prior.
        prior: SPRING's μφ, or None.
        max_step_norm: The limit of the step, or None.
    """

    def __init__(
        self,
        evaluations: Evaluations,
        residuals: Tensor,
        system: LinearSystem,
        towards: Callable[[float, Mapping[Tensor, Tensor] | None], Direction],
        prior: Mapping[Tensor, Tensor] | None,
        max_step_norm: float | None,
    ):
        evaluations.begin(residuals)
        self._evaluations, self._roots, self._towards = evaluations, system.roots, towards
        self._prior, self._max_step_norm = prior, max_step_norm
        self.loss = _sum_of_squares(system.r)
        self.noise = torch.finfo(residuals.dtype).eps * self.loss
        self.put_back, self.accept = evaluations.put_back, evaluations.accept

    def direction(self, damping: float, *, fresh: bool) -> Direction:
        self.put_back()  # the graph, from which the direction comes, belongs to these parameters
        direction = self._towards(damping, None if fresh else self._prior).complete()
        if direction.prior is not None and direction.predicted(self.limit(direction)) <= 0:
            return self._towards(damping, None).complete()
        return direction

    def limit(self, direction: Direction) -> float:
        return direction.limited(self._max_step_norm)

    def loss_at(self, direction: Direction, length: float) -> float:
        residuals = self._evaluations.residuals(direction, length).reshape(-1)
        weighted = residuals if self._roots is None else residuals * self._roots
        loss = _sum_of_squares(weighted.double())
        return loss if math.isfinite(loss) else math.inf


def _sum_of_squares(v: Tensor) -> float:
    return float(v @ v)
