"""GGN, the Gram-Gauss-Newton method, as a PyTorch optimizer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .capture import named_trainable
from .errors import NonFiniteError, ResidualsError, SettingError
from .jacobian import Jacobian, Linearizer
from .solve import Solution, solve_damped

__all__ = ["GGN", "StepInfo"]


@dataclass(frozen=True)
class StepInfo:
    """What one step did. The tensors are scalars on the parameters' device; ``float()`` them to read.

    Attributes:
        loss: Mean squared residual before the step.
        gradient_norm: ‖Jᵀ r‖, half the norm of the gradient of the summed squares.
        step_norm: ‖Δw‖ before the parameter groups' learning rates are applied, ‖Jᵀ v‖.
        damping: What was added to the Gram's diagonal; a jitter comes on top, see ``solve_damped``.
        solver: "cholesky", "cholesky+jitter" or "pseudo-inverse".
    """

    loss: Tensor
    gradient_norm: Tensor
    step_norm: Tensor
    damping: float
    solver: str


class GGN(torch.optim.Optimizer):
    r"""Exact Gauss-Newton steps for square loss, solved in the space of the residuals.

    With residuals r of shape (n·o,) and their Jacobian J,

    .. math:: w \leftarrow w - \mathrm{lr}\; J^\top (J J^\top + \mathrm{damping}\, I)^{-1} r .

    In the paper's letters (arXiv 1905.11675), w ← w − Jᵀ(λ J Jᵀ + α I)⁻¹ r, ``lr`` = 1/λ and ``damping`` = α/λ. The
    damping adds to sums over the batch, not to means: keep it when the batch size changes.

    Args:
        model: The module to train; its parameters with ``requires_grad`` are updated.
        lr: Step length, ≥ 0; 1 is the full Gauss-Newton step.
        damping: ≥ 0; 0 is the undamped step, the minimum-norm solution where the Gram matrix is singular.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> optimizer = GGN(model, lr=1.0, damping=0.3)
        >>> loss = optimizer.step(lambda: model(x) - y)

    Raises:
        SettingError: A setting is outside its range, or the model has nothing to train.
    """

    def __init__(self, model: nn.Module, lr: float = 1.0, damping: float = 0.3):
        if not isinstance(model, nn.Module):
            raise SettingError(f"GGN takes the model itself, not {type(model).__name__}: GGN(model, lr=…, damping=…)")
        _check_settings(lr, damping)
        named = named_trainable(model)
        if not named:
            raise SettingError(f"{type(model).__name__} has no parameter with requires_grad=True")
        # All parameters, so that what is frozen now can be set free later; a step takes those that require gradients.
        super().__init__(list(model.named_parameters()), {"lr": lr, "damping": damping})
        self.info: StepInfo | None = None
        self._linearize = Linearizer()

    def __setstate__(self, state: dict[str, Any]) -> None:  # after deepcopy or unpickling
        super().__setstate__(state)
        self.info = None
        self._linearize = Linearizer()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Takes one step.

        Args:
            closure: Returns the residuals f − y of the batch, shape (n,) or (n, ...), computed with gradients. Each
                sample's residuals must depend on that sample alone for the fast rules to apply; where they do not,
                the step is still exact, and slow.

        Returns:
            The mean squared residual before the step, a scalar tensor.

        Raises:
            ResidualsError: The closure did not return such a tensor.
            NonFiniteError: NaN or infinity in the residuals or the Gram matrix; no parameter has changed.
            UnsupportedError: The model holds something that has no exact treatment.
        """
        if not callable(closure):
            raise ResidualsError(f"step takes a function that returns the residuals, not {type(closure).__name__}")
        with torch.enable_grad():
            residuals = closure()
        if isinstance(residuals, Tensor) and residuals.dim() == 0:
            raise ResidualsError(
                "the closure returned a scalar, which looks like a loss: return the residuals f − y, one row a sample "
                "(a single residual as residual.view(1))"
            )
        damping = self._damping()
        try:
            jacobian = self._linearize(residuals, self._parameters())
        except RuntimeError as error:
            if "backward through the graph a second time" not in str(error):
                raise
            raise ResidualsError(
                "the closure must not call backward(): return the residuals, the step does it"
            ) from error
        r = residuals.detach().reshape(-1)
        gram = jacobian.gram()
        solution = solve_damped(gram, r, damping)
        # What is read comes before what is written: a layer's input, or the residuals, may be a parameter.
        info = _info(r, gram, solution)
        largest_rate = max(group["lr"] for group in self.param_groups)
        if not bool(torch.isfinite(largest_rate * info.step_norm)):
            raise NonFiniteError("the step is not finite: the residuals are too large for the damping and dtype")
        self._update(jacobian, solution.v)
        self.info = info
        return info.loss

    def _update(self, jacobian: Jacobian, v: Tensor) -> None:
        rates = {group["lr"] for group in self.param_groups}
        if len(rates) == 1:
            jacobian.add_transposed_(v, -rates.pop())
            return
        direction = jacobian.transposed(v)
        for group in self.param_groups:
            for p in group["params"]:
                if p in direction:
                    p.add_(direction[p], alpha=-group["lr"])

    def _parameters(self) -> dict[Tensor, str]:
        return {
            p: name
            for group in self.param_groups
            for name, p in zip(group["param_names"], group["params"], strict=True)
            if p.requires_grad
        }

    def _damping(self) -> float:
        """The damping of this step; schedulers write into the groups, so all settings are checked anew."""
        for group in self.param_groups:
            _check_settings(group["lr"], group["damping"])
        values = {float(group["damping"]) for group in self.param_groups}
        if len(values) > 1:
            raise SettingError(f"one Gram matrix serves all parameter groups, so damping must agree: {sorted(values)}")
        return values.pop()


def _check_settings(lr: Any, damping: Any) -> None:
    for name, value in (("lr", lr), ("damping", damping)):
        if not isinstance(value, int | float | Tensor):
            raise SettingError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    if not 0 <= lr < float("inf"):  # zero included: schedulers warm up from it and anneal to it
        raise SettingError(f"lr must be a finite number ≥ 0, got {lr}")
    if not 0 <= damping < float("inf"):
        raise SettingError(f"damping must be a finite number ≥ 0, got {damping}")


def _info(r: Tensor, gram: Tensor, solution: Solution) -> StepInfo:
    # ‖Jᵀ x‖² = xᵀ G x: both norms at the price of a matrix-vector product, whatever the number of parameters.
    matrix = gram.double()
    gradient_norm, step_norm = ((x @ (matrix @ x)).clamp(min=0).sqrt() for x in (r.double(), solution.v))
    return StepInfo(r.square().mean(), gradient_norm, step_norm, solution.damping, solution.solver)
