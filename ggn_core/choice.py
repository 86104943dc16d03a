"""Which of several ways to the same result is taken: by count, or by a quick measurement.

On a CPU the count of operations is a good guide. On a GPU it is a poor one: how well a product fills the device, and
which kernel the library picks for it, decide more. There each way is run a few times on the first batch of a shape,
once in the life of the process, and the fastest is taken from then on. All ways give the same up to rounding.
"""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from .errors import SettingError
from .recording import capturing

__all__ = ["COUNTED", "Choice", "Choose", "Chooser"]

Choose = Literal["auto", "counted", "measured"]

REPEATS = 3  # of each way, in turns, after one run that counts for nothing; the fastest run of each stands for it
MOST_MEASURED = 1024  # shapes; inputs whose size is new at every step are soon left to the count


@dataclass(frozen=True)
class Choice:
    """A way and the reason for it.

    Attributes:
        way: Its name.
        why: The counts or times that were compared.
    """

    way: str
    why: str


_measured: dict[Hashable, Choice] = {}  # of this process


class Chooser:
    """Chooses.

    Args:
        by: "counted", "measured", or "auto": measured on CUDA, unless ``torch.use_deterministic_algorithms`` is on, for
            a measurement may end otherwise in another process; counted elsewhere.

    Raises:
        SettingError: ``by`` is something else.
    """

    def __init__(self, by: Choose = "auto"):
        if by not in get_args(Choose):
            raise SettingError(f"choose must be 'auto', 'counted' or 'measured', got {by!r}")
        self._by = by

    def measures(self, device: torch.device) -> bool:
        """Whether measurements count on that device."""
        if self._by == "auto":
            return device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
        return self._by == "measured"

    def __call__(
        self, counted: Choice, key: Hashable, ways: Mapping[str, Callable[[], object]], device: torch.device
    ) -> Choice:
        """The choice.

        Args:
            counted: What the count says.
            key: All that the times depend on, the device aside: equal keys share one measurement.
            ways: The name of each way, and a function that goes it and leaves no trace.
            device: Where they compute.
        """
        if not self.measures(device):
            return counted
        key = (key, device)
        if key not in _measured and len(_measured) < MOST_MEASURED and _undisturbed(device):
            _measured[key] = _fastest(ways, device) or counted
        return _measured.get(key, counted)


COUNTED = Chooser("counted")


def _undisturbed(device: torch.device) -> bool:
    """Whether nobody records what is run: a CUDA graph, or a mode that sees every operation, such as a tracer."""
    return not capturing(device) and torch._C._len_torch_dispatch_stack() == 0


def _fastest(ways: Mapping[str, Callable[[], object]], device: torch.device) -> Choice | None:
    """The way that took the least time, if any went through; one that runs out of memory is out."""
    times: dict[str, float] = {}
    for name, run in ways.items():
        try:
            run()
            times[name] = math.inf
        except torch.OutOfMemoryError:
            continue
    for _ in range(REPEATS):
        for name in times:
            times[name] = min(times[name], seconds(ways[name], device))
    if not times:
        return None
    (best, least), *others = sorted(times.items(), key=lambda item: item[1])
    against = " and ".join(f"{1e3 * taken:.3g} ms {name}" for name, taken in others)
    return Choice(best, f"measured: {1e3 * least:.3g} ms" + (f" against {against}" if against else ""))


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long it takes; on a GPU from kernel to kernel."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
