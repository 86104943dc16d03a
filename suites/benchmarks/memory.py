"""Peak memory of a step, in a process of its own: a process's peak never falls."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import torch

from .networks import BATCHES, DEVICES, LARGE, WIDTHS, synchronize
from .step import METHODS

MIB = 2**20
PROCESSES = 3
SOME_WIDTHS = WIDTHS if LARGE else WIDTHS[-1:]
SOME_BATCHES = BATCHES if LARGE else BATCHES[-1:]


class _Tracked:
    """The peak of a step above what model, batch and optimizer hold before it: the least of a few processes, because
    what the system adds of its own is never negative.
    """

    unit = "MiB"
    tolerance = 0.1

    def least(self, method: str, width: int, batch: int, device: str) -> float:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise NotImplementedError(f"no {device} here")
        command = [sys.executable, "-m", __name__, method, str(width), str(batch), device]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        peaks = []
        for _ in range(PROCESSES):
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
            if done.returncode != 0:
                raise RuntimeError(done.stderr.strip())
            peaks.append(float(done.stdout))
        return min(peaks)


class Memory(_Tracked):
    """Of GGN's step."""

    params: ClassVar = [SOME_WIDTHS, SOME_BATCHES, DEVICES]
    param_names = ("width", "batch", "device")

    def track_peak_memory(self, width: int, batch: int, device: str) -> float:
        return self.least("ggn", width, batch, device)


class RivalMemory(_Tracked):
    """Of a first-order step, for the eye."""

    params: ClassVar = [["sgd", "adam"], SOME_WIDTHS, SOME_BATCHES, DEVICES]
    param_names = ("method", "width", "batch", "device")
    gated = False

    def track_peak_memory(self, method: str, width: int, batch: int, device: str) -> float:
        return self.least(method, width, batch, device)


def _peak(method: str, width: int, batch: int, device: str) -> float:
    """The first step's peak, in MiB: what it needs once (workspaces, momenta) is part of it."""
    step = METHODS[method](width, batch, device)
    synchronize(device)
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    before = _resident()[0]
    step()
    return (_resident()[1] - before) / MIB


def _resident() -> tuple[int, int]:
    """The process's memory now and at its peak, in bytes.

    Linux: from /proc, because ``ru_maxrss`` of a new process starts at the memory of the one that started it.
    Elsewhere: ``ru_maxrss`` twice, so that a step shows what it adds to the peak of its preparation.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak, peak) if sys.platform == "darwin" else (peak * 1024, peak * 1024)
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.MULTILINE))
    return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024


if __name__ == "__main__":
    print(_peak(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
