"""Puts off an interruption until what must not be broken off is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["put_off"]


@contextmanager
def put_off() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM wait for its end; a second one does not.

    A transaction that is broken off would leave its database locked for the very calls that close it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = False

    def note(number: int, frame: object) -> None:
        nonlocal waiting
        if waiting:
            raise KeyboardInterrupt
        waiting = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            raise KeyboardInterrupt
