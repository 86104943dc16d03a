"""Which of MLflow's runs belong to a commit."""

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..connection import connect, search, tracking_uri, translated

__all__ = ["RecordedSuite", "recorded_at"]


class RecordedSuite(NamedTuple):
    """The runs of one suite that were recorded at a commit.

    Attributes:
        suite: Its name, the experiment's.
        experiment_id: Of MLflow.
        runs: Their ids, newest first.
    """

    suite: str
    experiment_id: str
    runs: list[str]


def recorded_at(commits: Collection[str]) -> dict[str, list[RecordedSuite]]:
    """Commit → what was recorded of it, by suite; empty where nothing is recorded yet. Creates no store.

    Raises:
        UserError: The tracking store does not answer.
    """
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        return {}
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return {}
    client = connect()
    found: dict[str, dict[str, RecordedSuite]] = {}
    with translated():
        experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    for run in search(client, list(experiments), "tags.`ggn.commit` LIKE '%'"):
        commit, experiment = run.data.tags["ggn.commit"], run.info.experiment_id
        if commit in commits:
            entry = RecordedSuite(experiments[experiment], experiment, [])
            found.setdefault(commit, {}).setdefault(experiment, entry).runs.append(run.info.run_id)
    return {commit: list(suites.values()) for commit, suites in found.items()}
