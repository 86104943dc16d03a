"""From a commit to what MLflow has recorded of it, and the page that asv's graphs link to."""

import json
import os
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.errors import UserError
from harness.gate import commit_page
from harness.gate.claims import claims_by_suite
from harness.gate.commit_page import write_commit_page
from harness.gate.recorded import recorded_at

FIRST, SECOND, UNKNOWN = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def recorded(workplace: Path) -> dict[str, list[str]]:
    """Runs at two commits and two suites, and one without a commit; suite and commit → run ids."""
    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    found: dict[str, list[str]] = {}
    for suite, commits in {"quickstart": [FIRST, FIRST, SECOND], "width": [SECOND, None]}.items():
        experiment = client.create_experiment(suite)
        for commit in commits:
            run = client.create_run(experiment, tags={"ggn.commit": commit} if commit else {})
            found.setdefault(f"{suite} {commit}", []).append(run.info.run_id)
    return found


def test_a_commit_finds_its_runs(recorded: dict[str, list[str]]) -> None:
    found = recorded_at([FIRST, UNKNOWN])
    assert set(found) == {FIRST}
    (entry,) = found[FIRST]
    assert entry.suite == "quickstart"
    assert set(entry.runs) == set(recorded[f"quickstart {FIRST}"])
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
    for run in recorded[f"quickstart {FIRST}"]:
        assert f"/runs/{run}" in sections[FIRST]
        assert f"/runs/{run}" not in sections[SECOND]


def test_a_suite_finds_the_claims_that_name_it(
    workplace: Path, recorded: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workplace / "claims"
    folder.mkdir()
    (folder / "faster.yaml").write_text("claim: faster\nparts:\n  - {suite: quickstart}\n  - {suite: quickstart}\n")
    (folder / "wide.yaml").write_text("claim: wide\nparts:\n  - {suite: width}\n  - {suite: quickstart}\n")
    (folder / "empty.yaml").write_text("")
    assert claims_by_suite(folder) == {"quickstart": ["faster", "wide"], "width": ["wide"]}
    monkeypatch.setattr(commit_page, "claims_by_suite", lambda: claims_by_suite(folder))
    (workplace / "index.json").write_text(json.dumps({"revision_to_hash": {"1": FIRST}}))
    assert "claims that rest on them: faster, wide" in write_commit_page(workplace).read_text()


def test_without_asvs_pages_there_is_nothing_to_link_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asv has published nothing"):
        write_commit_page(tmp_path)
