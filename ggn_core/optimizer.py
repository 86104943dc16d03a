"""GGN, the Gram-Gauss-Newton method, as a PyTorch optimizer."""

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler here and now

from . import momentum as momentum_
from .advice import Advice, warn
from .agreement import agree
from .capturable import CapturableDirection
from .capture import named_trainable
from .choice import Choose
from .direction import Direction
from .errors import CompiledError, NonFiniteError, ResidualsError, SettingError, UnsupportedError
from .evaluation import Evaluations, Start
from .info import StepInfo
from .linear_system import LinearSystem
from .model import as_written
from .precision import FullPrecision
from .ranks import Ranks
from .recording import capturing
from .recurrent import holds_lstm, in_parts
from .search import Outcome, Search
from .settings import ROW_MEMORY_GIB, Settings, SettingsReader, check
from .sharded import whole_residuals
from .sharded_system import ShardedSystemMaker
from .solve import Solution
from .solver import Solver, SystemMaker
from .weights import mean_square

__all__ = ["GGN"]

# Where the state holds the last solution of the iterative solver.
SOLVER, SOLUTION = "solver", "solution"


class GGN(torch.optim.Optimizer):
    """Exact Gauss-Newton steps for square loss, solved in the space of the residuals.

    With residuals r of shape (n·o,) and their Jacobian J,

        w ← w − lr · Jᵀ (J Jᵀ + damping · I)⁻¹ r

    In the paper's letters (arXiv 1905.11675), w ← w − Jᵀ(λ J Jᵀ + α I)⁻¹ r, ``lr`` = 1/λ and ``damping`` = α/λ; see
    ``from_paper``. The damping adds to sums over the batch, not to means: keep it when the batch size changes.

    ``lr``, ``momentum`` and ``weight_decay`` may differ between parameter groups, the other settings may not.

    Args:
        model: The module to train; its parameters with ``requires_grad`` are updated.
        lr: Step length, ≥ 0; 1 is the full Gauss-Newton step.
        damping: ≥ 0; 0 is the undamped step, the minimum-norm solution where the Gram matrix is singular.
        momentum: In [0, 1); SPRING's, see momentum.py. One more product with J a step.
        weight_decay: ≥ 0; decoupled as in ``torch.optim.AdamW``: each step also multiplies the parameters by
            1 − lr · weight_decay. It is no part of the loss that a search looks at, and a rejected step does not decay.
        max_step_norm: Limits ‖lr Δ‖ by shortening the step, as the norm constraint of natural-gradient Monte Carlo
            does; Δ is the direction, without weight decay. None for no limit.
        solver: "cholesky" assembles the Gram matrix. "cg" multiplies by it, solves to a tolerance, and asks nothing of
            how samples depend on each other: batch normalization in training mode is fine. "auto" takes "cg" from 2,048
            rows n·o on where it promises to be faster, see solver.py, and above 16,384 for its memory, provided that
            there is damping and the model has second derivatives. A ``ConjugateGradient`` is "cg" with settings.
        search: ``Armijo`` or ``LevenbergMarquardt``: evaluates the closure again, without gradients, to decide about
            the step's length, damping and acceptance. It holds two more copies of the parameters. None takes every
            step in full.
        row_memory_gib: What may be kept, from Gram to update, of the explicit rows that convolutions, normalization
            layers and the generic rule have: n·o for each weight. Beyond, rows are formed twice, and at most 256 MiB of
            them exist at a time; the smallest weights' rows are kept first. On a CPU what is kept stays until the next
            step replaces it, which spares the system from finding the memory again.
        capturable: Whether a CUDA graph may record steps: nothing on the way looks at a value, so the GPU is never
            waited for. What is not finite then leaves the parameters as they are instead of raising, and ``accepted``
            in ``info`` says so; uses that only a test could show to keep samples apart go through the generic rule.
            ``lr`` and ``damping`` may be tensors on the parameters' device, to change between replays. Takes neither
            damping 0, nor a search, ``max_step_norm`` or solver "cg".
        choose: How the step chooses where a layer's rows or Gram matrix can be had in several ways, equal but for
            rounding: "counted" by the operations they take; "measured" by running each a few times on the first batch
            of a shape, once a process; "auto" by measurement on CUDA, by count elsewhere and under
            ``torch.use_deterministic_algorithms``. Nothing is measured while a CUDA graph is recorded: a step before
            does it.
        group: The ``torch.distributed`` process group of one training run, each process with the residuals of its own
            part of the batch: the step is that of the whole batch, and so is what ``step`` and ``info`` report. All
            processes must take every step. The parameters of rank 0 count, as in ``DistributedDataParallel``, in which
            the model must not be wrapped. Takes neither solver "cg" nor ``capturable``. None for a single process.

    Attributes:
        info: What the last step did, a ``StepInfo``; None before the first.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> optimizer = GGN(model, lr=1.0, damping=0.3)
        >>> loss = optimizer.step(lambda: model(x) - y)

    Raises:
        SettingError: A setting is outside its range, or the model has nothing to train.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor = 1.0,
        damping: float | Tensor = 0.3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        max_step_norm: float | None = None,
        solver: Solver = "auto",
        search: Search | None = None,
        row_memory_gib: float = ROW_MEMORY_GIB,
        capturable: bool = False,
        choose: Choose = "auto",
        group: "dist.ProcessGroup | None" = None,
    ):
        if not isinstance(model, nn.Module):
            raise SettingError(f"GGN takes the model itself, not {type(model).__name__}: GGN(model, lr=…, damping=…)")
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise SettingError("GGN(…, group=…) takes the model that DistributedDataParallel would wrap: model.module")
        if not (search is None or callable(search)) or isinstance(search, type):
            raise SettingError(f"search must be None, Armijo(…) or LevenbergMarquardt(…), got {search!r}")
        if capturable and search is not None:
            raise SettingError("a search decides by values: it goes with capturable=False only")
        if capturable and group is not None:
            raise SettingError("ranks look at what the others tell them: a group goes with capturable=False only")
        settings = {
            "lr": lr,
            "damping": damping,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "max_step_norm": max_step_norm,
            "step_length": 1.0,  # where the last search ended
        }
        check(settings, capturable)
        if not named_trainable(model):
            raise SettingError(f"{type(model).__name__} has no parameter with requires_grad=True")
        # All parameters, so that what is frozen now can be set free later; a step takes those that require gradients.
        super().__init__(list(model.named_parameters()), settings)
        self.model = model
        self.solver = solver
        self.search = search
        self.row_memory_gib = row_memory_gib
        self.capturable = capturable
        self.choose = choose
        self.group = group
        self.info: StepInfo | None = None
        self._prepare()

    @classmethod
    def from_paper(cls, model: nn.Module, *, lam: float, alpha: float, **settings: Any) -> "GGN":
        """The optimizer in the paper's letters: w ← w − Jᵀ(λ J Jᵀ + α I)⁻¹ r (arXiv 1905.11675, algorithm 1).

        Args:
            model: As for GGN.
            lam: λ > 0; the learning rate is 1/λ.
            alpha: α ≥ 0; the damping is α/λ.
            **settings: Everything else that GGN takes.

        Raises:
            SettingError: λ or α is outside its range.
        """
        if not 0 < lam < math.inf:
            raise SettingError(f"lam, the paper's λ, must be a finite number > 0, got {lam}")
        if not 0 <= alpha < math.inf:
            raise SettingError(f"alpha, the paper's α, must be a finite number ≥ 0, got {alpha}")
        return cls(model, lr=1 / lam, damping=alpha / lam, **settings)

    def __getstate__(self) -> dict[str, Any]:  # for deepcopy and pickle
        return {
            **super().__getstate__(),
            "model": self.model,
            "solver": self.solver,
            "search": self.search,
            "row_memory_gib": self.row_memory_gib,
            "capturable": self.capturable,
            "choose": self.choose,
            "group": self.group,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:  # after deepcopy, unpickling or load_state_dict
        super().__setstate__(state)
        self.info = None
        self._prepare()

    def _prepare(self) -> None:
        """What is remembered from step to step, and saved nowhere."""
        self._advise = Advice()
        self._read_settings = SettingsReader(self.defaults, self.capturable)
        self._ranks = None if self.group is None else Ranks(self.group)
        if self._ranks is None:
            self._make_system = SystemMaker(self.solver, self.row_memory_gib, self.capturable, self.choose)
        else:
            self._make_system = ShardedSystemMaker(self._ranks, self.solver, self.row_memory_gib, self.choose)
        self._holds_lstm = holds_lstm(self.model)
        self._compiled = False  # whether the closure was found to call what torch.compile has compiled

    @_disable_dynamo  # a step reads the autograd graph, of which a compiler would see nothing
    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor], sample_weights: Tensor | None = None
    ) -> Tensor:
        """Takes one step.

        Args:
            closure: Returns the residuals f − y of the batch, shape (n,) or (n, ...), computed with gradients. Each
                sample's residuals must depend on that sample alone for the fast rules to apply; where they do not,
                the step is still exact, and slow. A search calls it several times a step.
            sample_weights: (n,), ≥ 0: weighted least squares, Σ_i ω_i ‖r_i‖². Weight 2 is the sample twice.

        Returns:
            The mean squared residual before the step, a scalar tensor.

        Raises:
            ResidualsError: The closure did not return such a tensor.
            SettingError: A setting, or the weights, are outside their range.
            NonFiniteError: NaN or infinity in the residuals or the Gram matrix; no parameter has changed.
            UnsupportedError: The model holds something that has no exact treatment.
            RankError: With a group: another process failed. Errors of the kinds above are raised as such by all.
        """
        parameters = self._parameters()
        with FullPrecision(next(iter(parameters)).device.type if parameters else "cpu") as precision:
            if callable(closure):  # otherwise it is for all ranks to complain about
                closure = precision.outside(in_parts(closure) if self._holds_lstm else closure)
            return self._step(closure, parameters, sample_weights)

    def _step(
        self, closure: Callable[[], Tensor], parameters: dict[Tensor, str], sample_weights: Tensor | None
    ) -> Tensor:
        settings = self._begin()
        evaluations = None
        if self.search is not None:
            whole = None if self._ranks is None else partial(whole_residuals, self._ranks)
            evaluations = Evaluations(closure, self.model, list(parameters), whole)
        residuals, system = self._linear_system(closure, parameters, sample_weights, settings.damping)
        # What is read comes before what is written: a layer's input, or the residuals, may be a parameter.
        loss = mean_square(system.r, system.roots).to(residuals.dtype)
        gradient_norm = system.squared_norm(system.r).sqrt()
        prior = momentum_.prior(self.state, self.param_groups) if settings.momentum else None

        def towards(damping: float | Tensor, prior: Mapping[Tensor, Tensor] | None) -> Direction:
            if settings.largest_lr is None:
                return CapturableDirection(system, damping, prior, self.param_groups, settings.lr)
            direction = Direction(system, damping, prior, self.param_groups, settings.lr)
            if not math.isfinite(settings.largest_lr * float(direction.norm)):
                raise NonFiniteError("the step is not finite: the residuals are too large for the damping and dtype")
            return direction

        if self.search is None or evaluations is None:
            outcome = self._take(towards(settings.damping, prior), settings)
        else:
            start = Start(evaluations, residuals, system, towards, prior, settings.max_step_norm)
            outcome = self._search(self.search, start, settings)
        if settings.momentum:
            momentum_.update(self.state, self.param_groups, outcome.direction.parts if outcome.accepted else None)
        self._remember_solution(outcome.direction.solution)
        self._advise(residuals, system.generic, parameters)
        self.info = _info(loss, gradient_norm, outcome, tuple(parameters[p] for p in system.generic))
        return loss

    def _begin(self) -> Settings:
        """The settings; with a group, those that all ranks share, as they do the parameters from here on."""
        read = partial(self._read_settings, self.param_groups)
        return read() if self._ranks is None else agree(self._ranks, read, self.param_groups, self.state)

    def _take(self, direction: Direction, settings: Settings) -> Outcome:
        """The step in full."""
        length = direction.limited(settings.max_step_norm)
        if settings.momentum or settings.weight_decay:
            _ = direction.parts  # before the parameters, to which the graph belongs, change
        if settings.weight_decay:
            for group in self.param_groups:
                torch._foreach_mul_([p for p in group["params"] if p.requires_grad], direction.decay(group))
        direction.move_(length)
        return Outcome(direction, length)

    def _search(self, search: Search, start: Start, settings: Settings) -> Outcome:
        """As much of the step as the search accepts; not a bit of it otherwise."""
        try:
            outcome = search(start, float(settings.damping), settings.step_length)
        except BaseException:
            start.put_back()
            raise
        for group in self.param_groups:
            group["damping"] = settings.damping if outcome.damping is None else outcome.damping
            group["step_length"] = outcome.step_length
        if outcome.accepted:
            start.accept(self.param_groups)
        else:
            start.put_back()
        return outcome

    def _linear_system(
        self,
        closure: Callable[[], Tensor],
        parameters: dict[Tensor, str],
        sample_weights: Tensor | None,
        damping: float | Tensor,
    ) -> tuple[Tensor, LinearSystem]:
        """The residuals, and the step's linear system."""
        last = self.state.get(SOLVER, {}).get(SOLUTION)  # type: ignore[call-overload]
        try:
            return self._make_system(partial(self._evaluate, closure), parameters, sample_weights, damping, last)
        except CompiledError:
            if self._compiled:
                raise
        self._compiled = True  # from here on, for to ask for it at every step would take time from small networks
        return self._linear_system(closure, parameters, sample_weights, damping)

    def _evaluate(self, closure: Callable[[], Tensor]) -> Tensor:
        if not callable(closure):
            raise ResidualsError(f"step takes a function that returns the residuals, not {type(closure).__name__}")
        compiling = as_written() if self._compiled else contextlib.nullcontext()
        with torch.enable_grad(), compiling, self._make_system.evaluation():
            residuals = closure()
        if not isinstance(residuals, Tensor):
            return residuals  # for the linear system to complain about
        if residuals.dim() == 0:
            raise ResidualsError(
                "the closure returned a scalar, which looks like a loss: return the residuals f − y, one row a sample "
                "(a single residual as residual.view(1))"
            )
        if not self.capturable and capturing(residuals.device):
            raise UnsupportedError("a CUDA graph can record a step only of an optimizer made with capturable=True")
        return residuals

    def _remember_solution(self, solution: Solution) -> None:
        """For a warm start of the next; beside the parameters' state, which torch casts to their dtype on loading."""
        if solution.iterations is None:
            return
        self.state[SOLVER][SOLUTION] = solution.v  # type: ignore[index]
        if not solution.converged:
            warn(
                f"the conjugate gradient method stopped after {solution.iterations} iterations at a relative residual "
                f"of {solution.relative_residual:.1e}, and the step was taken with what it had: more damping, rank or "
                "max_iterations would help"
            )

    def _parameters(self) -> dict[Tensor, str]:
        return {
            p: name
            for group in self.param_groups
            for name, p in zip(group["param_names"], group["params"], strict=True)
            if p.requires_grad
        }


def _info(loss: Tensor, gradient_norm: Tensor, outcome: Outcome, generic: tuple[str, ...]) -> StepInfo:
    direction, solution = outcome.direction, outcome.direction.solution
    return StepInfo(
        loss,
        gradient_norm,
        direction.norm,
        solution.damping,
        solution.solver,
        outcome.length,
        outcome.accepted and direction.finite,
        outcome.attempts,
        outcome.gain_ratio,
        solution.iterations,
        solution.relative_residual,
        solution.converged,
        generic,
    )
