"""Whether ``ggn gate`` finds what was planted, and nothing else: our own benchmarks on copies of the working tree.

Slow, and meant for a machine that nothing else uses: ``GGN_GATE_TRIES=10 make test-slow`` repeats the counts that
docs/performance.md reports. By default every case is tried once.
"""

import collections
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRIES = int(os.environ.get("GGN_GATE_TRIES", "1"))
SHARE = 0.15

# The Gram matrix takes exactly this much longer, whatever its size and the machine.
SLOWER = f"""
import functools, time

def _slower(function):
    @functools.wraps(function)
    def slower(*arguments):
        start = time.perf_counter()
        result = function(*arguments)
        end = start + {1 + SHARE} * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return result
    return slower

gram = _slower(gram)
"""
# The first of each layer's two products is computed once more and thrown away: how much that is depends on sizes and
# machine.
REPEATED = """

def _repeating(exact):
    def repeating(self, gram):
        rows = self.right.flatten(0, 1)
        rows @ rows.T
        exact(self, gram)
    return repeating

VectorBlock.add_gram_ = _repeating(VectorBlock.add_gram_)
"""
BROKEN = """
def gram(model, inputs):
    raise RuntimeError("planted")
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as commit ``good``, and the tags ``slower``, ``repeated`` and ``broken`` on top of it."""
    folder = tmp_path_factory.mktemp("history") / "copy"
    ignore = shutil.ignore_patterns(".*", "*.egg-info", "build", "mlruns", "reports", "*.db", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=ignore)

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)

    def commit(tag: str) -> None:
        git("add", "-A")
        git("commit", "-m", tag)
        git("tag", tag)

    git("init", "-b", "main")
    commit("good")
    gram, linear = folder / "ggn_core" / "gram.py", folder / "ggn_core" / "rules" / "linear_blocks.py"
    clean, clean_linear = gram.read_text(), linear.read_text()
    gram.write_text(clean + SLOWER)
    commit("slower")
    gram.write_text(clean + BROKEN)
    commit("broken")
    gram.write_text(clean)
    linear.write_text(clean_linear + REPEATED)
    commit("repeated")
    return folder


def _gate(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "harness", "gate", *arguments, "--json"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode in (0, 1, 3), done.stderr
    return dict(json.loads(done.stdout))


def _named(report: dict[str, Any], status: str) -> set[str]:
    return {finding["id"] for finding in report["findings"] if finding["status"] == status}


@contextmanager
def _neighbour(present: bool) -> Iterator[None]:
    """Another process that takes a whole core."""
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if present else None
    try:
        yield
    finally:
        if burner is not None:
            burner.kill()
            burner.wait()


def _told(capsys: pytest.CaptureFixture[str], what: str, counts: "collections.Counter[str]") -> None:
    with capsys.disabled():
        print(f"\n{what}: {', '.join(f'{verdict} {count}/{TRIES}' for verdict, count in sorted(counts.items()))}")


@pytest.mark.parametrize("plant", ["slower", "repeated"])
@pytest.mark.parametrize("neighbour", [False, True], ids=["alone", "beside-a-busy-process"])
def test_a_gram_matrix_that_is_15_percent_slower_is_caught(
    history: Path, neighbour: bool, plant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: collections.Counter[str] = collections.Counter()
    with _neighbour(neighbour):
        for _ in range(TRIES):
            report = _gate(history, "good", plant, "--only", "gram.Gram.", "--only", "phases.Phase.time_solve")
            counts[report["verdict"]] += 1
            slower = _named(report, "regression")
            assert not any(name.startswith("phases.") for name in slower), slower
            if report["verdict"] == "regression":
                assert any(name.startswith("gram.Gram.time_gram") for name in slower), slower
    _told(capsys, f"{plant}, {'beside a busy process' if neighbour else 'alone'}", counts)
    assert counts["no regression"] == 0
    if not neighbour:
        assert counts["regression"] >= math.floor(0.9 * TRIES)


def test_identical_commits_raise_no_alarm(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = collections.Counter(_gate(history, "good", "good")["verdict"] for _ in range(TRIES))
    _told(capsys, "identical commits", counts)
    assert counts["regression"] == 0


def test_a_speed_up_is_reported(history: Path) -> None:
    report = _gate(history, "slower", "good", "--only", "gram.Gram.")
    assert report["verdict"] != "regression"
    assert _named(report, "improvement")


def test_a_benchmark_that_crashes_is_no_fast_one(history: Path) -> None:
    report = _gate(history, "good", "broken", "--only", "gram.Gram.")
    assert report["verdict"] == "regression"
    assert len(_named(report, "crashed")) == len(report["findings"])
    assert all("planted" in finding["reason"] for finding in report["findings"])
