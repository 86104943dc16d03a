"""One case of somax, in its own environment without torch: python -m suites.peers.jax_worker CASE RESULT."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORES = 2
with contextlib.suppress(AttributeError, OSError):  # XLA has as many threads as cores it may run on; not on macOS
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])

import jax  # noqa: E402  after the cores are chosen
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import somax  # noqa: E402

from .jax_networks import NETWORKS, Parameters  # noqa: E402
from .measure import Memory, interleave  # noqa: E402
from .record import Case, Row, failure, read_case, write_row  # noqa: E402

LR = 1e-3
RIVALS = {"sgd": optax.sgd, "adam": optax.adam}

Batch = dict[str, jax.Array]
Step = Callable[[Parameters, Any, Batch], tuple[Parameters, Any]]  # parameters, state, batch -> parameters, state


def answer(case: Case) -> Row:
    """Measures, or says why not."""
    row = Row(case.peer, case.workload, case.quantity)
    if case.quantity == "gram":
        row.offered, row.reason = False, "not offered"
        return row
    try:
        with np.load(case.data) as arrays:
            problem = Problem(case.workload, dict(arrays))
        if case.kind == "memory":
            row.peak_mib = _memory(problem)
        else:
            row.error = _error(problem)
            if case.kind == "time":
                row.seconds = _seconds(case, problem)
    except Exception as error:  # whatever the library raises is this case's answer
        traceback.print_exc()
        row.reason = failure(error)
    return row


class Problem:
    """A network as a function that returns all outputs in one row, (n·o,): somax' EGN takes scalar outputs only."""

    def __init__(self, name: str, arrays: dict[str, np.ndarray]):
        self._images = name.startswith("resnet")
        self.parameters = self.named(arrays, "parameter")
        self.truth = self.named(arrays, "step")
        self.damping = float(arrays["damping"])
        inputs = arrays["inputs"]
        if self._images:
            inputs = inputs.transpose(0, 2, 3, 1)  # (n, channels, height, width) -> (n, height, width, channels)
        self.batch = {"x": jnp.asarray(inputs), "y": jnp.asarray(arrays["targets"].reshape(-1))}
        self.predict: Callable[[Parameters, jax.Array], jax.Array] = lambda p, x: NETWORKS[name](p, x).reshape(-1)

    def named(self, arrays: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
        found = {name.removeprefix(f"{kind} "): array for name, array in arrays.items() if name.startswith(f"{kind} ")}
        if not self._images:
            return found
        # (out, in, height, width) -> (height, width, in, out)
        return {name: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a for name, a in found.items()}

    def fresh(self) -> Parameters:
        return {name: jnp.array(array) for name, array in self.parameters.items()}


def _egn(problem: Problem, lr: float) -> tuple[Step, Any]:
    # Its damping µ of the Gram matrix is λ times the number of rows.
    method = somax.egn_mse(predict_fn=problem.predict, lam0=problem.damping / len(problem.batch["y"]), learning_rate=lr)
    random = jax.random.PRNGKey(0)

    def step(parameters: Parameters, state: Any, batch: Batch) -> tuple[Parameters, Any]:
        parameters, state, _ = method.step(parameters, batch, state, random)
        return parameters, state

    return step, method.init(problem.fresh())


def _first_order(problem: Problem, kind: Callable[[float], optax.GradientTransformation]) -> tuple[Step, Any]:
    optimizer = kind(1e-6)

    def loss(parameters: Parameters, batch: Batch) -> jax.Array:
        return jnp.mean((problem.predict(parameters, batch["x"]) - batch["y"]) ** 2)

    def step(parameters: Parameters, state: Any, batch: Batch) -> tuple[Parameters, Any]:
        updates, state = optimizer.update(jax.grad(loss)(parameters, batch), state)
        return optax.apply_updates(parameters, updates), state

    return step, optimizer.init(problem.fresh())


class Loop:
    """A training loop on one batch; the step is compiled when the loop is made, and overwrites its arguments."""

    def __init__(self, problem: Problem, step: Step, state: Any):
        self.parameters, self._state, self._batch = problem.fresh(), state, problem.batch
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(self.parameters, state, problem.batch).compile()
        self._step: Step = compiled

    def __call__(self) -> None:
        self.parameters, self._state = self._step(self.parameters, self._state, self._batch)
        jax.block_until_ready(self.parameters)


def _seconds(case: Case, problem: Problem) -> dict[str, list[float]]:
    calls = {name: Loop(problem, *_first_order(problem, kind)) for name, kind in RIVALS.items()}
    return interleave({"peer": Loop(problem, *_egn(problem, LR)), **calls}, case.budget)


def _error(problem: Problem) -> float:
    loop = Loop(problem, *_egn(problem, lr=1.0))
    loop()
    change = {name: np.asarray(p, np.float64) - problem.parameters[name] for name, p in loop.parameters.items()}
    difference = sum(np.sum((change[name] - truth) ** 2) for name, truth in problem.truth.items())
    return float(np.sqrt(difference / sum(np.sum(truth**2) for truth in problem.truth.values())))


def _memory(problem: Problem) -> float:
    """Of running the step, not of compiling it."""
    loop = Loop(problem, *_egn(problem, LR))
    memory = Memory()
    loop()
    loop()
    return memory.peak()


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # float32 arrays stay float32
    write_row(answer(read_case(Path(sys.argv[1]))), Path(sys.argv[2]))
