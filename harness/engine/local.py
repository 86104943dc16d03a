"""Trials on this machine, each in a process of its own.

A server process imports torch once and forks a child for every trial (multiprocessing's forkserver), so isolation
costs milliseconds, and a crash, a kill or a hang takes down one trial only. The child of the next trial is forked while
the last one's result is being recorded; if it is gone when it is needed, another is forked.
"""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from types import TracebackType
from typing import Self

from ..environment import device_problem, environment
from ..store import Store
from ..suite import Limits
from ..trial import AnyTrial, Outcome, StepCostTrial, TrialResult
from .turns import turn

__all__ = ["LocalEngine", "StoppedError"]

# The trial as JSON, where its result goes, where its trained model goes, if anywhere, where it is kept while under way,
# and its limit of memory.
Work = tuple[str, str, str | None, str, float | None]

POLL_SECONDS = 0.5  # how soon a trial that nobody waits for any more is ended


class StoppedError(Exception):
    """The trial was ended because nobody waits for it any more."""


class LocalEngine:
    """Runs trials and keeps their results in a store.

    Args:
        store: Where results go.
        limits: Time and memory of a trial.
        jobs: How many trials run at once. Those that time steps never do, unless ``share`` is set.
        share: Let trials that time steps run beside others.
        preload: Packages that the server imports besides, if it is not running yet: what the user's own code imports.
    """

    def __init__(self, store: Store, limits: Limits, jobs: int = 1, share: bool = False, preload: Sequence[str] = ()):
        self.store = store
        self.limits = limits
        self.jobs = jobs
        self.share = share
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", "harness.worker", *preload])
        self._spares: list[_Child] = []
        self._keeps_spares = False

    def __enter__(self) -> Self:
        """From now on a process for the next trial is kept ready."""
        self._keeps_spares = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeps_spares = False
        while self._spares:
            self._spares.pop().end()

    @property
    def is_parallel(self) -> bool:
        """Whether it pays to ask for several trials at once."""
        return self.jobs > 1

    def run_all(self, trials: Sequence[AnyTrial], keep_models: Container[str] = ()) -> Iterator[TrialResult]:
        """Results as they come, in any order; in the store by then, but for those that were skipped.

        Args:
            trials: The trials.
            keep_models: The ids of those whose trained model shall be in the store, too.
        """
        if self.jobs == 1:
            for trial in trials:
                yield self.run(trial, keep_model=trial.id in keep_models)
            return
        leaving = threading.Event()
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="trial") as pool:
            futures = [pool.submit(self.run, trial, leaving.is_set, trial.id in keep_models) for trial in trials]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                leaving.set()
                pool.shutdown(cancel_futures=True)

    def run(
        self, trial: AnyTrial, is_abandoned: Callable[[], bool] | None = None, keep_model: bool = False
    ) -> TrialResult:
        """The trial's result; it is in the store by then, unless the trial was skipped: a skip may be mended.

        Args:
            trial: The trial.
            is_abandoned: Asked now and then whether nobody waits for the trial any more.
            keep_model: Whether its trained model shall be in the store, too.

        Raises:
            StoppedError: It was abandoned.
        """
        reason = device_problem(trial.device)
        if reason is not None:
            return TrialResult(
                trial=trial, outcome=Outcome.SKIPPED, reason=reason, environment=environment(), started=time.time()
            )
        with turn(alone=isinstance(trial, StepCostTrial) and not self.share):
            return self._run(trial, is_abandoned, keep_model)

    def _child(self, work: "Work") -> "_Child":
        """A process that works on it: the spare one, or a new one."""
        while self._spares:
            child = self._spares.pop()
            try:
                child.give(work)
            except BrokenPipeError:  # it has been killed while it waited
                child.end()
            else:
                return child
        child = _Child(self._context)
        child.give(work)
        return child

    def _run(self, trial: AnyTrial, is_abandoned: Callable[[], bool] | None, keep_model: bool) -> TrialResult:
        started, clock = time.time(), time.monotonic()
        path, model_path = self.store.path(trial.id), self.store.model_path(trial.id)
        for old in (path, model_path):  # an old result must not pass for this one's
            old.unlink(missing_ok=True)
        model = str(model_path) if keep_model else None
        checkpoint = self.store.checkpoint_path(trial.id)
        child = self._child((trial.model_dump_json(), str(path), model, str(checkpoint), self.limits.memory_gib))
        try:
            in_time = _has_ended(child.process.sentinel, self.limits.seconds, is_abandoned)
        finally:
            child.end()
        if self._keeps_spares:
            self._spares.append(_Child(self._context))
        result = self.store.load(trial.id)
        if result is not None and self.jobs > 1:
            result = result.model_copy(update={"environment": result.environment | {"at_once": self.jobs}})
            self.store.save(result)
        if result is None:
            model_path.unlink(missing_ok=True)  # it ended between the two
            outcome, cause = _cause(child.process.exitcode, in_time, self.limits)
            wall = time.monotonic() - clock
            result = TrialResult(
                trial=trial,
                outcome=outcome,
                reason=cause,
                wall_seconds=wall,
                environment=environment(),
                started=started,
            )
            self.store.save(result)
        if result.outcome is not Outcome.KILLED:  # that one will go on where it was
            checkpoint.unlink(missing_ok=True)
        return result


class _Child:
    """A process that waits to be given a trial."""

    def __init__(self, context: ForkServerContext):
        receiving, self._sending = context.Pipe(duplex=False)
        self.process = context.Process(target=_enter, args=(receiving,), name="ggn trial")
        self.process.start()
        receiving.close()

    def give(self, work: Work) -> None:
        """Hands over the trial.

        Raises:
            BrokenPipeError: The process has ended.
        """
        self._sending.send(work)

    def end(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._sending.close()


def _enter(receiving: Connection) -> None:
    """What runs in a trial's process. The worker is imported there: the parent has no need of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    from ..worker import work

    try:
        given: Work = receiving.recv()
    except EOFError:  # the parent is gone
        return
    work(*given)


def _has_ended(sentinel: int, seconds: float, is_abandoned: Callable[[], bool] | None) -> bool:
    """Waits for the process; whether it ended in time."""
    if is_abandoned is None:
        return bool(wait([sentinel], timeout=seconds))
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if wait([sentinel], timeout=min(POLL_SECONDS, left)):
            return True
        if is_abandoned():
            raise StoppedError
    return False


def _cause(exit_code: int | None, in_time: bool, limits: Limits) -> tuple[Outcome, str]:
    if not in_time:
        return Outcome.TIMEOUT, f"not done within {limits.seconds:g} s"
    if exit_code == -signal.SIGKILL:
        return Outcome.KILLED, "ended by SIGKILL: by an operator, or by the kernel for want of memory"
    if exit_code is not None and exit_code < 0:
        return Outcome.CRASHED, f"ended by {signal.Signals(-exit_code).name}"
    return Outcome.CRASHED, f"ended with exit code {exit_code} and no result"
