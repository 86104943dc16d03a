"""From a commit to what MLflow has recorded of it, and the page that asv's graphs link to."""

import json
import os
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.claims.claim_file import load_claims
from harness.errors import UserError
from harness.gate.commit_page import write_commit_page
from harness.gate.recorded import recorded_at

FIRST, SECOND, UNKNOWN = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def recorded(workplace: Path) -> dict[str, list[str]]:
    """Whole evaluation runs at two commits and of two suites, beside others; suite and commit → run ids."""
    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    found: dict[str, list[str]] = {}
    for suite, commits in {"quickstart": [FIRST, FIRST, SECOND], "width": [SECOND, "None"]}.items():
        experiment = client.create_experiment(suite)
        for number, commit in enumerate(commits):
            tags = {"ggn.suite": suite, "ggn.commit": commit, "ggn.trial": str(number), "ggn.outcome": "completed"}
            client.create_run(experiment, tags={**tags, "ggn.role": "evaluation"})  # left open: half-written
            for role in ("tuning", "evaluation"):
                run = client.create_run(experiment, tags={**tags, "ggn.role": role})
                client.set_terminated(run.info.run_id)
            found.setdefault(f"{suite} {commit}", []).append(run.info.run_id)
    return found


def test_a_commit_finds_its_runs_and_the_claims_that_rest_on_them(recorded: dict[str, list[str]]) -> None:
    found = recorded_at([FIRST, UNKNOWN])
    assert set(found) == {FIRST}
    (entry,) = found[FIRST]
    assert entry.suite == "quickstart"
    assert set(entry.runs) == set(recorded[f"quickstart {FIRST}"])
    assert entry.claims == [claim.claim for claim in load_claims() if "quickstart" in claim.suites()] != []
    assert {entry.suite for entry in recorded_at([SECOND])[SECOND]} == {"quickstart", "width"}


def test_looking_creates_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert recorded_at([FIRST]) == {}
    assert not os.listdir(tmp_path)


def test_the_page_has_an_anchor_for_each_commit_and_links_its_runs(
    workplace: Path, recorded: dict[str, list[str]]
) -> None:
    (workplace / "index.json").write_text(json.dumps({"revision_to_hash": {"1": FIRST, "2": SECOND, "3": UNKNOWN}}))
    page = write_commit_page(workplace).read_text()
    assert re.findall(r'<section id="(\w+)">', page) == [UNKNOWN, SECOND, FIRST]
    sections = dict(zip([UNKNOWN, SECOND, FIRST], page.split("<section ")[1:], strict=True))
    assert "Nothing is recorded" in sections[UNKNOWN]
    assert "claims that rest on them: " in sections[FIRST]
    for run in recorded[f"quickstart {FIRST}"]:
        assert f"/runs/{run}" in sections[FIRST]
        assert f"/runs/{run}" not in sections[SECOND]


def test_without_asvs_pages_there_is_nothing_to_link_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asv has published nothing"):
        write_commit_page(tmp_path)
