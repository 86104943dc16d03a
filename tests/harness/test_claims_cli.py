"""``ggn claims``: registers, runs, saves and checks; published results are recomputed on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tracked import runs

from harness.claims import check as check_module
from harness.claims import commands
from harness.claims.claim import Accepted, Claim
from harness.claims.claim_file import load_claims
from harness.claims.registry import Registry
from harness.suite import Suite
from harness.theory_suite import TheorySuite

PUBLISHED = sorted(path.parent for path in (Path(__file__).parents[2] / "results" / "claims").glob("*/manifest.json"))


def _ggn(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=300)


def test_something_is_published() -> None:
    assert PUBLISHED


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_verdicts_are_recomputed(folder: Path, workplace: Path) -> None:
    done = _ggn("claims", "check", "--from", str(folder), "--json")
    assert done.returncode in (0, 1, 3), done.stderr
    assert "published" not in done.stderr, done.stderr  # no difference is told
    found = json.loads(done.stdout)
    published = json.loads((folder / "manifest.json").read_text())["verdicts"]
    assert {c["claim"]: c["verdict"] for c in found["claims"]} == {c["claim"]: c["verdict"] for c in published}
    assert "changed since" not in done.stdout
    numbers = [[part["value"] for part in claim["parts"]] for claim in found["claims"]]
    assert numbers == [[part["value"] for part in claim["parts"]] for claim in published]
    page = Path(found["report"]).read_text()
    assert all(claim["statement"] in page for claim in found["claims"])
    assert page.count("data:image/svg+xml;base64,") == len(published)


def test_run_registers_and_saves_and_check_notices_what_moved(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = TheorySuite.model_validate(
        {
            "suite": "theory",
            "problem": ({"name": "two_layer", "width": 64},),
            "batch_size": (5,), "dtype": ("float64",), "threads": (1,), "seeds": 2,
            "methods": ({"name": "sgd"},), "steps": 3, "epochs": 4,
        }
    )  # fmt: skip

    def suites(claims: list[Claim], full: bool) -> dict[str, Suite]:
        return {"theory": suite}

    monkeypatch.setattr(commands, "suites_of", suites)
    monkeypatch.setattr(check_module, "suites_of", suites)
    console = Console(quiet=True)
    assert commands.run_claims(["ntk-link"], False, "none", workplace / "saved", console, as_json=True) == 0
    (verdict,) = json.loads(capsys.readouterr().out)["claims"]
    assert verdict["verdict"] == "inconclusive"
    assert "underpowered: 1 of 5 widths" in verdict["reason"]
    assert (workplace / "reports" / "theory" / "index.html").is_file()
    assert [entry.claim for entry in Registry(workplace / ".ggn").read()] == ["ntk-link"]
    assert {run.data.tags["ggn.claim"] for run in runs("theory")} == {"ntk-link"}

    pages = [workplace / "reports" / name / "index.html" for name in ("theory", "claims")]
    written = [page.stat().st_mtime_ns for page in pages]
    commands.run_claims(["ntk-link"], False, "none", None, console, as_json=True)
    assert json.loads(capsys.readouterr().out)["claims"] == [verdict]
    assert [page.stat().st_mtime_ns for page in pages] == written  # nothing had changed

    assert commands.check_claims(["ntk-link"], False, None, console, as_json=True) == commands.INCONCLUSIVE
    assert json.loads(capsys.readouterr().out)["claims"] == [verdict]
    saved = workplace / "saved"
    assert commands.check_claims(["ntk-link"], False, saved, console, as_json=True) == commands.INCONCLUSIVE
    assert json.loads(capsys.readouterr().out)["claims"] == [verdict]

    (claim,) = load_claims(["ntk-link"])
    part = claim.parts[0].model_copy(update={"accept": Accepted(at_most=-0.1)})
    moved = claim.model_copy(update={"parts": (part, *claim.parts[1:])})
    monkeypatch.setattr(commands, "load_claims", lambda names: [moved])
    for folder in (None, saved):
        commands.check_claims(["ntk-link"], False, folder, console, as_json=True)
        assert "has changed since the run" in json.loads(capsys.readouterr().out)["claims"][0]["reason"]
    commands.run_claims(["ntk-link"], False, "none", None, console, as_json=True)  # registers what has moved
    assert "after some of its evidence" in json.loads(capsys.readouterr().out)["claims"][0]["reason"]


def test_list_tells_every_claim_and_mistakes_end_with_2(workplace: Path) -> None:
    listed = _ggn("claims", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    claims = json.loads(listed.stdout)
    assert len(claims) == 7
    assert {claim["source"] for claim in claims} <= {"stated", "recalled, unverified"}
    for arguments, words in (
        (("check",), "nothing is recorded of these claims here: ggn claims run"),
        (("check", "nkt-link"), "did you mean 'ntk-link'"),
        (("check", "--from", "nowhere"), "holds no results of claims"),
    ):
        done = _ggn("claims", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
