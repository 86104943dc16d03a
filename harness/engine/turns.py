"""Turns on a machine: a trial that times steps has it to itself, others share it.

The locks are the kernel's, on files in the machine's temporary folder, so they hold between all engines of a user,
whatever started them, and go with the process that holds them, however it ends.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["turn"]


@contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Waits until the machine can be used.

    Args:
        alone: Nobody else may be inside; otherwise, nobody who is there alone.
    """
    stem = Path(tempfile.gettempdir()) / f"ggn-{os.getuid()}"
    with stem.with_suffix(".machine").open("a") as machine:
        # Who waits to be alone stands in the gate, so that those who share cannot overtake without end.
        with stem.with_suffix(".gate").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
