"""What a number depends on besides the code's input: the machine, the software, the commit."""

import hashlib
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["Facts", "code", "commit", "device_problem", "environment", "is_current", "peak_memory_mib"]

Facts = dict[str, str | int | float | bool | None]

ROOT = Path(__file__).resolve().parent.parent


@cache
def environment(device: str = "cpu") -> Facts:
    """Machine, software and commit, as a flat record."""
    facts: Facts = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ggn": _version(),
        "code": code(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        **commit(),
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


@cache
def code() -> str:
    """Digest of the source that a trial's result depends on: the core, the methods, the problems, the loops.

    It tells whether a result recorded earlier is still this code's answer, which a commit does not: most commits leave
    results as they are, and what is not committed may change them.
    """
    content = hashlib.sha256()
    for part in (
        "ggn_core",
        "harness/problems",
        "harness/methods.py",
        "harness/training.py",
        "harness/course.py",
        "harness/theory.py",
    ):
        place = ROOT / part
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            content.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return content.hexdigest()[:16]


def is_current(facts: Facts) -> bool:
    """Whether a result recorded with ``facts`` comes from this code and this torch."""
    return facts.get("code") == code() and facts.get("torch") == torch.__version__


@cache
def commit() -> Facts:
    """The commit of the checkout this code runs from, and whether files differ from it; None outside a checkout."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")) != ROOT:
            return {"commit": None, "dirty": None}
        return {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def device_problem(device: str) -> str | None:
    """Why ``device`` cannot be used here, or None if it can."""
    try:
        kind = torch.device(device)
    except RuntimeError:
        return f"'{device}' is not a device that torch knows"
    if kind.type == "cpu":
        return None
    if kind.type == "cuda":
        if not torch.cuda.is_available():
            return "no CUDA device on this machine"
        if (kind.index or 0) >= torch.cuda.device_count():
            return f"this machine has {torch.cuda.device_count()} CUDA devices, counted from 0"
        return None
    return f"devices of type '{kind.type}' are not supported; cpu and cuda are"


def peak_memory_mib(device: str) -> float:
    """Peak memory since the process began: resident set on a CPU, torch's allocations on a GPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _version() -> str | None:
    try:
        return version("gram-gauss-newton")
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
