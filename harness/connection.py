"""The way to MLflow's tracking store: a client, its errors as ours, its runs page by page."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .errors import UserError, unknown_name
from .records import is_whole
from .sweep import EVALUATION

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["TrackingError", "answering", "connect", "recorded_runs", "search", "tracking_uri", "translated"]


class TrackingError(UserError):
    """The tracking server refused or did not answer; finished trials are on disk."""


def connect() -> "MlflowClient":
    """A client of the tracking store.

    Raises:
        UserError: MLflow is missing, or a database does not answer; a server is not asked before its first use.
    """
    tracking_uri()
    # Fail within seconds, not minutes, where no server listens; what the user has set stays.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout holds --json
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 4  # ten attempts at a database take 100 s, four take one
    # They say in many lines what a TrackingError says in one.
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    with answering():
        return MlflowClient()


def search(client: "MlflowClient", experiments: Sequence[str], condition: str) -> "Iterator[Run]":
    """The runs of the experiments that meet MLflow's ``condition``, newest first.

    Raises:
        TrackingError: The store refused or did not answer.
    """
    token = None
    while True:
        with translated():
            page = client.search_runs(
                list(experiments),
                filter_string=condition,
                max_results=1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
        yield from page
        token = page.token
        if not token:
            return


def recorded_runs(suites: Sequence[str] = ()) -> "list[Run]":
    """The whole evaluation runs of the suites, of all if none is named; newest first.

    Raises:
        UserError: A suite that the tracking store does not hold, or a store that does not answer.
    """
    client = connect()
    experiments: dict[str, str] = {}
    with answering():
        token = None
        while True:
            page = client.search_experiments(page_token=token)
            experiments |= {experiment.name: experiment.experiment_id for experiment in page}
            token = page.token
            if not token:
                break
    for suite in suites:
        if suite not in experiments:
            known = experiments.keys() - {"Default"}
            raise UserError(f"{unknown_name('recorded suite', suite, known)} (in {tracking_uri()})")
    wanted = [experiments[suite] for suite in suites or experiments]
    return [run for run in search(client, wanted, f"tags.`ggn.role` = '{EVALUATION}'") if is_whole(run)]


def tracking_uri() -> str:
    """Where MLflow records, as its own settings say; a password in it is masked.

    Raises:
        UserError: MLflow is missing.
    """
    # The project's folder mlflow/ makes `import mlflow` succeed, emptily, where MLflow is not installed.
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise UserError("MLflow is not installed: pip install 'gram-gauss-newton'")
    from mlflow import get_tracking_uri

    return _masked(str(get_tracking_uri()))


@contextmanager
def answering() -> Iterator[None]:
    """At the first use of a store, where an error means that it is the wrong one, or not ours to use.

    Raises:
        UserError: With the way out.
    """
    try:
        yield
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
        line = _first_line(error)
        if "error code 401" in line or "error code 403" in line:
            raise UserError(
                f"the tracking store {tracking_uri()} refuses ({line}); "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of a user of it"
            ) from None
        raise UserError(
            f"the tracking store {tracking_uri()} does not answer ({line}); "
            "set MLFLOW_TRACKING_URI to one that does, or unset it for a local file"
        ) from None


@contextmanager
def translated() -> Iterator[None]:
    """MLflow's errors, and those of the libraries below it, as one.

    Raises:
        TrackingError: Always instead of them.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"the tracking store failed: {_first_line(error)}") from error


def _masked(text: str) -> str:
    """``text`` without the passwords of the addresses in it."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", text)


def _first_line(error: BaseException) -> str:
    """What a database driver said itself, where SQLAlchemy and MLflow have wrapped it; else the error's first line."""
    origin = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    lines = str(origin).splitlines()
    return _masked(lines[0])[:200] if lines else type(error).__name__
