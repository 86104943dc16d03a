"""Where trials run: isolated processes of this machine, or of the machines of a Dask cluster."""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from ..errors import UserError
from ..plugin_source import installed_imports
from ..store import Store
from ..suite import Suite
from ..trial import AnyTrial, TrialResult
from .local import LocalEngine

__all__ = ["Engine", "EngineOptions", "LocalEngine", "open_engine"]


class Engine(Protocol):
    """Runs trials; whatever becomes of a trial's process is a result."""

    @property
    def is_parallel(self) -> bool:
        """Whether it pays to ask for several trials at once."""

    def run_all(self, trials: Sequence[AnyTrial], keep_models: Container[str] = ()) -> Iterator[TrialResult]:
        """Results as they come, in any order; in the store by then, but for those that were skipped.

        Args:
            trials: The trials.
            keep_models: The ids of those whose trained model shall be in the store, too.
        """


class EngineOptions(NamedTuple):
    """What the command line says of the engine.

    Attributes:
        name: "local" or "dask"; None for the one that the rest asks for.
        scheduler: Of the Dask cluster to join.
        jobs: Trials at once: on this machine, or workers of the Dask cluster to start here. None for one, or as many
            workers as the machine has cores for.
        share: Let trials that time steps run beside others on one machine.
    """

    name: str | None = None
    scheduler: str | None = None
    jobs: int | None = None
    share: bool = False


def open_engine(
    options: EngineOptions, suite: Suite, store: Store, tell: Callable[[str], None]
) -> AbstractContextManager[Engine]:
    """The engine, for the time that a suite runs.

    Args:
        options: Which.
        suite: The suite, with its limits.
        store: Where results go.
        tell: Told of what a user should know, such as the death of a worker.

    Raises:
        UserError: The options do not go together, or there is no such cluster.
    """
    preload = sorted({name for code in suite.own_code() for name in installed_imports(code.plugin.path)})
    if options.name == "dask" or (options.name is None and options.scheduler is not None):
        from .dask import DaskEngine

        if options.scheduler is not None and options.jobs is not None:
            raise UserError("--jobs: the cluster of --scheduler has the workers that it has; leave one of the two out")
        jobs = options.jobs or max(1, (os.cpu_count() or 1) // max(suite.threads))
        return DaskEngine(store, suite.limits, options.scheduler, jobs, options.share, tell, preload)
    if options.scheduler is not None:
        raise UserError("--scheduler: only --engine dask has one")
    return LocalEngine(store, suite.limits, options.jobs or 1, options.share, preload)
