"""What rests on a commit: the runs that MLflow holds of it, and the claims that the suites of those runs measure."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ..claims.claim_file import load_claims
from ..connection import recorded_runs, tracking_uri

__all__ = ["Recorded", "RecordedSuite", "recorded_at"]


class RecordedSuite(NamedTuple):
    """The evaluation runs of one suite that were recorded at a commit.

    Attributes:
        suite: Its name.
        experiment_id: Of MLflow.
        runs: Their ids, newest first.
        claims: The claims that the suite measures.
    """

    suite: str
    experiment_id: str
    runs: list[str]
    claims: list[str]


Recorded = dict[str, list[RecordedSuite]]


def recorded_at(commits: Collection[str]) -> Recorded:
    """Commit → what was recorded of it, by suite; empty where there is no local store yet, and none is made.

    Raises:
        UserError: The tracking store does not answer, or a claim file is wrong.
    """
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return {}
    claims = load_claims()
    found: dict[str, dict[str, RecordedSuite]] = {}
    for run in recorded_runs():
        commit, suite = run.data.tags.get("ggn.commit", ""), run.data.tags.get("ggn.suite", "")
        if commit not in commits:
            continue
        suites = found.setdefault(commit, {})
        if suite not in suites:
            resting = [claim.claim for claim in claims if suite in claim.suites()]
            suites[suite] = RecordedSuite(suite, run.info.experiment_id, [], resting)
        suites[suite].runs.append(run.info.run_id)
    return {commit: list(suites.values()) for commit, suites in found.items()}
