"""The measurement of what a sweep costs: that its parts add up."""

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_parts_add_up() -> None:
    command = [sys.executable, "-m", "suites.sweep", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    trials, whole, trial, empty, rest, recording = map(float, re.findall(r"[\d.]+", done.stdout))
    assert trials == 6
    assert whole == pytest.approx(trial + empty + rest, abs=0.2)
    assert min(trial, empty, recording) > 0
