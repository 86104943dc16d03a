"""Where trials run: each in a process of its own, one after the other.

A server process imports torch once and forks a child for every trial (multiprocessing's forkserver), so isolation
costs milliseconds, and a crash, a kill or a hang takes down one trial only.
"""

import multiprocessing
import signal
import time
from multiprocessing.connection import wait

from .environment import device_problem, environment
from .store import Store
from .suite import Limits
from .trial import AnyTrial, Outcome, TrialResult

__all__ = ["Engine"]


class Engine:
    """Runs trials and keeps their results in a store.

    Args:
        store: Where results go.
        limits: Time and memory of a trial.
    """

    def __init__(self, store: Store, limits: Limits):
        self.store = store
        self.limits = limits
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", "harness.worker"])

    def run(self, trial: AnyTrial) -> TrialResult:
        """The trial's result; it is in the store by then, unless the trial was skipped: a skip may be mended."""
        reason = device_problem(trial.device)
        if reason is not None:
            return TrialResult(trial=trial, outcome=Outcome.SKIPPED, reason=reason, started=time.time())
        started = time.time()
        path = self.store.path(trial.id)
        path.unlink(missing_ok=True)  # an old result must not pass for this one's
        arguments = (trial.model_dump_json(), str(path), self.limits.memory_gib)
        process = self._context.Process(target=_enter, args=arguments, name=f"ggn trial {trial.id}")
        process.start()
        try:
            in_time = bool(wait([process.sentinel], timeout=self.limits.seconds))
        finally:
            if process.is_alive():
                process.kill()
            process.join()
        result = self.store.load(trial.id)
        if result is None:
            outcome, cause = _cause(process.exitcode, in_time, self.limits)
            wall = time.time() - started
            result = TrialResult(
                trial=trial,
                outcome=outcome,
                reason=cause,
                wall_seconds=wall,
                environment=environment(),
                started=started,
            )
            self.store.save(result)
        return result


def _enter(trial_json: str, result_path: str, memory_gib: float | None) -> None:
    """The first thing that runs in a trial's process. The worker is imported there: the parent has no need of it."""
    from .worker import work

    work(trial_json, result_path, memory_gib)


def _cause(exit_code: int | None, in_time: bool, limits: Limits) -> tuple[Outcome, str]:
    if not in_time:
        return Outcome.TIMEOUT, f"not done within {limits.seconds:g} s"
    if exit_code == -signal.SIGKILL:
        return Outcome.KILLED, "ended by SIGKILL: by an operator, or by the kernel for want of memory"
    if exit_code is not None and exit_code < 0:
        return Outcome.CRASHED, f"ended by {signal.Signals(-exit_code).name}"
    return Outcome.CRASHED, f"ended with exit code {exit_code} and no result"
