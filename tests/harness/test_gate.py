"""``ggn gate`` as a user types it, on synthetic repositories whose benchmarks sleep as long as their commit says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.gate.commits import PREFIX
from harness.gate.process import CaseError, Process

ROOT = Path(__file__).parents[2]
BENCHMARKS = """\
import os, time
import ggn_core

class Sleep:
    params = [["same", "slower", "faster"], [1]]

    def setup(self, name, factor):
        print("what a benchmark prints is no answer")
        self.seconds = 0.004 * ggn_core.FACTORS[name] * factor

    def time_sleep(self, name, factor):
        time.sleep(self.seconds)

class Crash:
    def time_crash(self):
        ggn_core.fragile()

class Fatal:
    def time_fatal(self):
        if ggn_core.FATAL:
            print("last words")
            os._exit(7)
        time.sleep(0.004)

class Fresh:
    def setup(self):
        ggn_core.FRESH

    def time_fresh(self):
        time.sleep(0.004)

class Absent:
    def setup(self):
        raise NotImplementedError("no such device here")

    def time_absent(self):
        pass

class Error:
    unit = "relative error"

    def track_error(self):
        return ggn_core.ERROR

class Eye:
    gated = False

    def time_eye(self):
        pass
"""
GOOD = """\
FACTORS = {"same": 1, "slower": 1, "faster": 1}
FATAL = False
ERROR = 1e-7
def fragile(): pass
"""
BAD = """\
FACTORS = {"same": 1, "slower": 1.5, "faster": 0.6}
FATAL = True
FRESH = True
ERROR = 1e-3
def fragile(): raise ValueError("planted")
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, tag: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "--allow-empty", "-m", f"make it {tag}")
    git(folder, "tag", tag)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commits: empty, good, bad (with all that can go wrong), edited (other benchmarks), unimportable."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-b", "main")
    commit(folder, "empty", {"README.md": "nothing yet\n"})
    packages = {"suites/__init__.py": "", "suites/benchmarks/__init__.py": ""}
    commit(folder, "good", {"ggn_core/__init__.py": GOOD, "suites/benchmarks/speed.py": BENCHMARKS, **packages})
    commit(folder, "bad", {"ggn_core/__init__.py": BAD})
    edited = BENCHMARKS.replace("class Crash", "class Renamed").replace("0.004 *", "0.002 *")
    commit(folder, "edited", {"ggn_core/__init__.py": GOOD, "suites/benchmarks/speed.py": edited})
    commit(folder, "unimportable", {"ggn_core/__init__.py": "import nothing_of_that_name\n"})
    git(folder, "checkout", "main")
    return folder


def gate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = _command(*arguments)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_variables(), timeout=120)


def mistaken(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the command says of a mistake; in this process, because nothing is measured."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", _variables()["PYTHONPATH"])
    done = CliRunner().invoke(main, ["gate", *arguments])
    assert done.exit_code == 2, done.output
    return done.output


def _command(*arguments: str) -> list[str]:
    # -P: as with the installed command, the working folder's ggn_core is not the one that runs.
    return [sys.executable, "-P", "-m", "harness", "gate", *arguments]


def _variables() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def _statuses(report: dict[str, Any]) -> dict[str, str]:
    return {finding["id"].removeprefix("speed."): finding["status"] for finding in report["findings"]}


@pytest.fixture(scope="module")
def compared(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The good commit against the bad one, as JSON and as Markdown."""
    page = tmp_path_factory.mktemp("page") / "gate.md"
    done = gate(repository, "good", "bad", "--pairs", "30", "--json", "--markdown", str(page))
    assert done.returncode == 1, done.stderr
    return json.loads(done.stdout), page.read_text()


def test_every_case_gets_the_verdict_that_was_planted(compared: tuple[dict[str, Any], str]) -> None:
    report, _ = compared
    assert _statuses(report) == {
        "Sleep.time_sleep(same, 1)": "unchanged",
        "Sleep.time_sleep(slower, 1)": "regression",
        "Sleep.time_sleep(faster, 1)": "improvement",
        "Crash.time_crash": "crashed",
        "Fatal.time_fatal": "crashed",
        "Fresh.time_fresh": "new",
        "Absent.time_absent": "skipped",
        "Error.track_error": "regression",
    }
    assert (report["verdict"], report["exit_code"]) == ("regression", 1)
    found = {finding["id"]: finding for finding in report["findings"]}
    slower = found["speed.Sleep.time_sleep(slower, 1)"]
    assert slower["ratio"]["low"] < 1.5 < slower["ratio"]["high"] + 0.1
    assert slower["ratio"]["low"] > 1.3
    # Two rounds on fresh processes, the second with twice the pairs; one is enough where nothing was seen.
    assert [len(r["samples"]["head"]) for r in slower["rounds"]] == [30, 60]
    assert "ValueError: planted" in found["speed.Crash.time_crash"]["reason"]
    assert "exit code 7" in found["speed.Fatal.time_fatal"]["reason"]
    assert "last words" in found["speed.Fatal.time_fatal"]["reason"]
    assert "FRESH" in found["speed.Fresh.time_fresh"]["reason"]
    assert found["speed.Absent.time_absent"]["reason"] == "no such device here"


def test_the_comment_leads_with_what_needs_a_look(compared: tuple[dict[str, Any], str]) -> None:
    _, page = compared
    lines = page.splitlines()
    assert lines[0] == "### Performance: regression"
    rows = [line for line in lines if line.startswith("| `speed.")]
    assert {row.split("`")[1] for row in rows[:2]} == {"speed.Error.track_error", "speed.Sleep.time_sleep(slower, 1)"}
    assert all("**regression**" in row for row in rows[:2])
    assert page.index("<details>") > page.index("**improvement**")
    assert page.index("Sleep.time_sleep(same, 1)") > page.index("1 unchanged")
    assert all(row.count("|") == rows[0].count("|") for row in rows)


def test_the_same_commit_twice(repository: Path) -> None:
    done = gate(repository, "good", "good", "--only", "sleep(same", "--only", "track_*error", "--only", "*track_error")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no regression: 2 unchanged" in done.stdout
    assert "same commit" in done.stdout


def test_one_commits_benchmarks_serve_both(repository: Path) -> None:
    """The edit halves the sleep: measured by one's own benchmark each, that would pass for twice the speed."""
    done = gate(repository, "good", "edited", "--only", "same", "--only", "Crash", "--only", "Renamed", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert _statuses(report) == {
        "Sleep.time_sleep(same, 1)": "unchanged",
        "Renamed.time_crash": "unchanged",
        "Crash.time_crash": "removed",
    }
    assert any("measured by the head's" in note for note in report["notes"])


def test_a_head_that_cannot_be_imported_is_a_regression(repository: Path) -> None:
    done = gate(repository, "good", "unimportable", "--only", "same", "--json")
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["status"] == "crashed"
    assert "nothing_of_that_name" in finding["reason"]


def test_uncommitted_changes_are_pointed_out(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    (copy / "README.md").write_text("something else\n")
    done = gate(copy, "good", "good", "--only", "track_error")
    assert "not committed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonesuch"], ["unknown commit 'nonesuch'"]),
        (["good", "--output=x"], ["--output"]),
        (["empty", "good"], ["'empty'", "ggn_core"]),
        (["good", "good", "--only", "nonesuch"], ["nonesuch", "speed.Sleep.time_sleep"]),
        (["unimportable", "good"], ["base", "nothing_of_that_name"]),
        (["good", "good", "--markdown", "none/gate.md"], ["none"]),
        (["good", "good", "--pairs", "5"], ["30"]),
    ],
)
def test_mistakes_end_with_exit_code_2(
    repository: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    said = mistaken(repository, monkeypatch, *arguments)
    assert all(word in said for word in words), said


def test_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not inside a git checkout" in mistaken(tmp_path, monkeypatch, "good")


def test_a_shallow_clone_says_how_to_deepen_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--depth", "1", f"file://{repository}", "shallow")
    assert "git fetch --unshallow" in mistaken(tmp_path / "shallow", monkeypatch, "HEAD~1")


def _scratch(process: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{process}-*"))


def _workers_of(scratch: Path) -> list[int]:
    """The processes whose command names the folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(scratch).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.fixture
def measuring(repository: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A gate in the midst of its measurements, and its scratch folder."""
    command = _command("good", "good", "--pairs", "100000", "--only", "sleep")
    process = subprocess.Popen(command, cwd=repository, env=_variables(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        folders = _scratch(process.pid)
        if folders and len(_workers_of(folders[0])) == 3:
            break
        time.sleep(0.05)
    else:
        process.kill()
        pytest.fail("the gate did not start")
    yield process, folders[0]
    process.kill()
    process.communicate()


def _gone(scratch: Path) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not _workers_of(scratch):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(
    measuring: tuple[subprocess.Popen[str], Path], number: signal.Signals
) -> None:
    process, scratch = measuring
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not scratch.exists()
    assert _gone(scratch)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_it_takes_its_processes_along_and_the_next_gate_sweeps_up(
    measuring: tuple[subprocess.Popen[str], Path], repository: Path
) -> None:
    process, scratch = measuring
    process.kill()
    process.wait()
    assert _gone(scratch)
    assert scratch.exists()
    assert gate(repository, "good", "good", "--only", "track_error").returncode == 0
    assert not scratch.exists()


@pytest.fixture
def hanging(repository: Path, tmp_path: Path) -> Path:
    """A tree with a benchmark that sleeps for a minute, and one that does nothing."""
    tree = tmp_path / "tree"
    shutil.copytree(repository, tree)
    speed = "import time\nclass Hang:\n    time_hang = lambda self: time.sleep(60)\n    time_fine = lambda self: None\n"
    (tree / "ggn_core" / "__init__.py").write_text(GOOD)
    (tree / "suites" / "benchmarks" / "speed.py").write_text(speed)
    return tree


def test_a_benchmark_that_hangs_is_ended_and_the_process_serves_on(hanging: Path, tmp_path: Path) -> None:
    process = Process(hanging, tmp_path / "scratch", threads=1, patience=5)
    try:
        process.ask("setup", module="speed", kind="Hang", method="time_hang", position=0)
        with pytest.raises(CaseError, match="no answer within 5 s"):
            process.ask("block", calls=1, warm=0)
        process.ask("setup", module="speed", kind="Hang", method="time_fine", position=0)
        assert process.ask("block", calls=1, warm=0) < 1
    finally:
        process.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_even_a_benchmark_that_hangs_goes_with_a_gate_that_is_killed(hanging: Path, tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from harness.gate.process import Process
process = Process(Path({str(hanging)!r}), Path({str(tmp_path / "scratch")!r}), threads=1)
process.ask("setup", module="speed", kind="Hang", method="time_hang", position=0)
print("ready", flush=True)
process.ask("block", calls=1, warm=0)
"""
    command = [sys.executable, "-P", "-c", program]
    parent = subprocess.Popen(command, cwd=tmp_path, env=_variables(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    assert len(_workers_of(hanging)) == 2  # the parent names the folder, too
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    assert _gone(hanging)


def test_code_from_elsewhere_is_not_measured(tmp_path: Path) -> None:
    """A tree without ggn_core, where another one is importable: the installed one must not stand in."""
    (tmp_path / "tree").mkdir()
    process = Process(tmp_path / "tree", tmp_path / "scratch", threads=1)
    try:
        with pytest.raises(CaseError, match=r"ggn_core came from|No module named 'ggn_core'"):
            process.ask("hello")
    finally:
        process.stop()
