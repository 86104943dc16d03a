"""What runs inside a trial's own process: limits first, then the trial, and a result whatever happens."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
import traceback
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.forkserver import _forkserver
from pathlib import Path

import torch
import torch._dynamo  # torch imports it at the first optimizer, 1–2 s: here the server pays once for all trials
from pydantic import TypeAdapter
from torch import nn

from ggn_core import UnsupportedError

from .environment import environment
from .errors import UserError
from .stepcost import measure_steps
from .store import replacing, write_atomically
from .theory import measure_theory
from .training import train
from .trial import AnyTrial, Outcome, StepCostTrial, TheoryTrial, TrainingTrial, TrialResult

__all__ = ["work"]

environment()  # remembered by all trials: the code as it was loaded, whatever is edited while they run


def work(
    trial_json: str, result_path: str, model_path: str | None, checkpoint_path: str, memory_gib: float | None
) -> None:
    """Runs one trial and writes its result; only a fatal signal keeps it from doing so.

    Args:
        trial_json: The trial.
        result_path: Where the result goes, atomically.
        model_path: Where the trained model goes before it; None to keep none.
        checkpoint_path: Where a long training is kept while it is under way.
        memory_gib: Address space that the process may use beyond what it starts with; None for no limit.
    """
    _die_with_parent()
    _be_the_first_to_go()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    trial: AnyTrial = TypeAdapter(AnyTrial).validate_json(trial_json)
    started, clock = time.time(), time.monotonic()
    try:
        _limit_memory(memory_gib)
        result = _run(trial, model_path, checkpoint_path)
    except Exception as error:  # whatever it is, it is this trial's outcome, and the sweep goes on
        outcome, reason = _judge(error)
        result = TrialResult(
            trial=trial,
            outcome=outcome,
            reason=reason,
            wall_seconds=time.monotonic() - clock,
            environment=environment(),
            started=started,
        )
    try:
        write_atomically(Path(result_path), result.model_dump_json())
    except OSError as error:  # a full disk: the parent tells of it
        sys.exit(f"error: {result_path}: cannot be written: {error.strerror}")


def _run(trial: AnyTrial, model_path: str | None, checkpoint_path: str) -> TrialResult:
    match trial:
        case TrainingTrial():
            keep = None if model_path is None else partial(_keep, Path(model_path))
            return train(trial, keep, Path(checkpoint_path))
        case StepCostTrial():
            return measure_steps(trial)
        case TheoryTrial():
            return measure_theory(trial)


def _keep(path: Path, model: nn.Module) -> None:
    """Writes the model's ``state_dict``, on the CPU, so that it loads with ``weights_only=True`` on any machine.

    A model that cannot be written, as on a full disk, costs the model and not the result.
    """
    try:
        weights = {key: value.cpu() if torch.is_tensor(value) else value for key, value in model.state_dict().items()}
        with replacing(path) as file:
            torch.save(weights, file)
    except Exception as error:
        print(f"warning: {path}: the trained model cannot be kept: {error}", file=sys.stderr)


def _judge(error: Exception) -> tuple[Outcome, str]:
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return Outcome.OUT_OF_MEMORY, text.splitlines()[0] if text else "out of memory"
    if isinstance(error, UserError | UnsupportedError):  # as Gram-Gauss-Newton on a network with BatchNorm
        return Outcome.SKIPPED, text
    return Outcome.CRASHED, "".join(traceback.format_exception(error)).strip()


def _limit_memory(gib: float | None) -> None:
    if gib is None:
        return
    used = 0
    with contextlib.suppress(OSError):  # Linux tells; elsewhere the limit counts what is there already
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = used + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with_parent() -> None:
    """Asks Linux to end this process when the fork server ends, which ends with the process that waits for the trial.

    The server ends when nobody holds the other end of its pipe any more, and it has handed every trial a copy.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    held = _forkserver._forkserver_alive_fd  # type: ignore[attr-defined]
    if held is not None:
        os.close(held)
        _forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]
    waiting = parent_process()
    if waiting is not None and wait([waiting.sentinel], timeout=0):
        os._exit(1)  # it ended before this process could ask to be told


def _be_the_first_to_go() -> None:
    """When memory runs out, the kernel shall end the trial, not the sweep."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
