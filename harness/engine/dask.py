"""Trials on the workers of a Dask cluster: the same trials, each in a process of its own there.

The scheduler hands every trial to a worker, and to another one if that worker dies. Results travel back to this
process, which alone stores and records them.
"""

import asyncio
import multiprocessing
import queue
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from pydantic import TypeAdapter

from ..environment import Facts, code, environment
from ..errors import UserError
from ..store import Store, replacing
from ..suite import Limits
from ..trial import AnyTrial, Outcome, TrialResult
from .local import LocalEngine

__all__ = ["DaskEngine"]

CONNECT_SECONDS = 20.0
LOOK_SECONDS = 5.0  # how often to see whether the cluster still lives while no result comes


class DaskEngine:
    """Runs trials on a cluster that it joins, or on one of this machine that it starts.

    Args:
        store: Where results go.
        limits: Time and memory of a trial.
        scheduler: Address of the scheduler to join, such as "tcp://10.0.0.1:8786"; None to start workers here.
        jobs: Workers to start.
        share: Let trials that time steps run beside others on one machine.
        tell: Told of what a user should know, such as the death of a worker.
        preload: As for ``LocalEngine``.

    Raises:
        UserError: ``distributed`` is not installed.
    """

    is_parallel = True

    def __init__(
        self,
        store: Store,
        limits: Limits,
        scheduler: str | None,
        jobs: int,
        share: bool,
        tell: Callable[[str], None],
        preload: Sequence[str] = (),
    ):
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise UserError("Dask is not installed: pip install 'gram-gauss-newton[dask]'") from None
        self.store = store
        self.limits = limits
        self.scheduler = scheduler
        self.jobs = jobs
        self.share = share
        self.tell = tell
        self.preload = preload
        self._topic = f"ggn-{uuid.uuid4().hex}"
        self._workers: dict[str, list[str]] = {}  # trial → the workers that it was begun on
        self._client: Any = None
        self._cluster: Any = None

    def __enter__(self) -> Self:
        """Joins the cluster, or starts it.

        Raises:
            UserError: No scheduler answers at the address.
        """
        from distributed import Client, LocalCluster

        if self.scheduler is None:
            # The limit on memory is a trial's own; Dask's would count the worker, which does nothing but wait.
            self._cluster = LocalCluster(
                n_workers=self.jobs,
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
            )
        else:
            _look_for_scheduler(self.scheduler)
        self._client = Client(self._cluster or self.scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        self._client.subscribe_topic(self._topic, self._note)
        if not self._client.nthreads():
            self.tell("the cluster has no workers yet; waiting for the first")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def run_all(self, trials: Sequence[AnyTrial], keep_models: Container[str] = ()) -> Iterator[TrialResult]:
        """Results as they come, in any order; those that are answers of a trial's process are in the store by then.

        Args:
            trials: The trials.
            keep_models: The ids of those whose trained model shall be in the store, too.

        Raises:
            UserError: The cluster has gone, or its workers do not have this code.
        """
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        expected = {"code": code(), "torch": torch.__version__}
        arguments = (self.limits.model_dump_json(), self.share, self.preload, expected, self._topic)
        waiting = {}
        for trial in trials:
            key = f"{trial.id}-{uuid.uuid4().hex}"
            keep = trial.id in keep_models
            future = self._client.submit(run_on_worker, trial.model_dump_json(), *arguments, keep, key=key, pure=False)
            waiting[future.key] = (trial, future)
            future.add_done_callback(ended.put)
        try:
            while waiting:
                try:
                    future = ended.get(timeout=LOOK_SECONDS)
                except queue.Empty:
                    self._look()
                    continue
                trial, _ = waiting.pop(future.key)
                yield self._result(trial, future)
        finally:
            self._client.cancel([future for _, future in waiting.values()])

    def _result(self, trial: AnyTrial, future: Any) -> TrialResult:
        from distributed import KilledWorker

        if future.cancelled() or future.status == "lost":
            raise UserError("the Dask cluster has gone; finished trials are kept: the same command goes on from here")
        error = future.exception()
        model: bytes | None = None
        if error is None:
            text, model = future.result()
            result = TrialResult.model_validate_json(text)
        elif isinstance(error, KilledWorker):
            workers = self._workers.get(trial.id, [])
            reason = f"its Dask worker died, {error.allowed_failures + 1} times over: {', '.join(workers)}"
            result = TrialResult(
                trial=trial, outcome=Outcome.KILLED, reason=reason, environment=environment(), started=time.time()
            )
        elif isinstance(error, UserError):
            raise error
        elif isinstance(error, ImportError):
            raise UserError(f"the Dask workers cannot import this project ({error}); install it there, too")
        else:
            raise error
        if result.outcome is not Outcome.SKIPPED:
            self._save_model(trial.id, model)
            self.store.save(result)
        return result

    def _save_model(self, trial_id: str, model: bytes | None) -> None:
        """Keeps the trained model; one that finds no room on the disk costs the model and not the result."""
        path = self.store.model_path(trial_id)
        path.unlink(missing_ok=True)  # an old one must not pass for this result's
        if model is not None:
            try:
                with replacing(path) as file:
                    file.write(model)
            except OSError as error:
                self.tell(f"{path}: the trained model cannot be kept: {error.strerror}")

    def _note(self, event: tuple[float, dict[str, str]]) -> None:
        """A worker says that it begins a trial; when it is not the first, the one before has died."""
        _, message = event
        workers = self._workers.setdefault(message["trial"], [])
        if workers:
            self.tell(
                f"the Dask worker {workers[-1]} died; its trial {message['trial']} runs again on {message['worker']}"
            )
        workers.append(message["worker"])

    def _look(self) -> None:
        if self._client.status != "running":
            raise UserError("the Dask scheduler has gone; finished trials are kept: the same command goes on from here")


def _look_for_scheduler(address: str) -> None:
    """Asks for its name: a client that finds nobody fails with errors of its own, on the console and later.

    Raises:
        UserError: No scheduler answers.
    """
    from distributed.core import connect

    async def ask() -> Any:
        connection = await connect(address, timeout=CONNECT_SECONDS)
        try:
            await connection.write({"op": "identity", "reply": True})
            return await connection.read()
        finally:
            connection.abort()

    try:
        answer = asyncio.run(asyncio.wait_for(ask(), CONNECT_SECONDS))
    except (OSError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--scheduler {address}: no Dask scheduler answers there ({reason})") from None
    if not isinstance(answer, dict) or answer.get("type") != "Scheduler":
        raise UserError(f"--scheduler {address}: what answers there is no Dask scheduler")


def run_on_worker(
    trial_json: str,
    limits_json: str,
    share: bool,
    preload: Sequence[str],
    expected: Facts,
    topic: str,
    keep_model: bool = False,
) -> tuple[str, bytes | None]:
    """What a Dask worker runs: the trial in a process of its own; its result as JSON, its trained model if asked for.

    Raises:
        UserError: The worker has other code than the process that asks, so that its results would be another's.
    """
    from distributed import get_worker

    trial: AnyTrial = TypeAdapter(AnyTrial).validate_json(trial_json)
    worker = get_worker()
    key = worker.get_current_task()
    found = {"code": code(), "torch": torch.__version__}
    if found != expected:
        raise UserError(f"the Dask worker {worker.address} has other code or another torch: {found}, not {expected}")
    worker.log_event(topic, {"trial": trial.id, "worker": worker.address})
    # Dask's own nanny marks workers as processes without children, which multiprocessing then enforces.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]

    def is_abandoned() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    with tempfile.TemporaryDirectory(prefix="ggn-") as folder:
        limits = Limits.model_validate_json(limits_json)
        engine = LocalEngine(Store(Path(folder)), limits, share=share, preload=preload)
        result = engine.run(trial, is_abandoned, keep_model)
        path = engine.store.model_path(trial.id)
        model = path.read_bytes() if path.exists() else None
    environment = result.environment | {"host": socket.gethostname()}
    return result.model_copy(update={"environment": environment}).model_dump_json(), model
