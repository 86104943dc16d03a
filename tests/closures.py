"""Tells what a step does from what its closure does."""

from collections.abc import Callable

from torch import Tensor


class ClosureApart:
    """Knows whether the closure is running."""

    def __init__(self) -> None:
        super().__init__()
        self.by_closure = False

    def of(self, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The closure, its operations told apart."""

        def called() -> Tensor:
            self.by_closure = True
            try:
                return closure()
            finally:
                self.by_closure = False

        return called
