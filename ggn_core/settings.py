"""The settings of the parameter groups: their ranges, checked at every step since schedulers write into the groups."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .errors import SettingError

__all__ = ["ROW_MEMORY_GIB", "Settings", "SettingsReader", "check"]

INFINITY = float("inf")
ROW_MEMORY_GIB = 2.0
NUMBERS = (int, float, Tensor)
OPTIONAL = frozenset({"max_step_norm"})
ON_DEVICE = frozenset({"lr", "damping"})  # where a capturable step may find them

# Name -> the test a value must pass, and its description. Zero is a learning rate: schedulers warm up from it.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (lambda value: 0 <= value < INFINITY, "a finite number ≥ 0"),
    "damping": (lambda value: 0 <= value < INFINITY, "a finite number ≥ 0"),
    "momentum": (lambda value: 0 <= value < 1, "a number in [0, 1)"),
    "weight_decay": (lambda value: 0 <= value < INFINITY, "a finite number ≥ 0"),
    "max_step_norm": (lambda value: value is None or 0 < value < INFINITY, "None or a finite number > 0"),
    "step_length": (lambda value: 0 < value <= 1, "a number in (0, 1]"),
}


@dataclass(frozen=True)
class Settings:
    """The settings of one step.

    Attributes:
        lr: The learning rate that all groups share, or None where they differ.
        largest_lr: Of all groups; None where it is not looked at.
        damping: Shared, since one Gram matrix serves all groups.
        momentum: Whether any group has momentum.
        weight_decay: Whether any group decays.
        max_step_norm: Shared, since it limits the step as a whole.
        step_length: Where the last search ended; shared.
    """

    lr: float | Tensor | None
    largest_lr: float | None
    damping: float | Tensor
    momentum: bool
    weight_decay: bool
    max_step_norm: float | None
    step_length: float


class SettingsReader:
    """Reads the groups' settings at each step, and checks them where they differ from the last step's.

    Args:
        defaults: Given to groups that lack a setting: made by hand, or loaded from an older file.
        capturable: Whether learning rate and damping may be tensors whose values are not looked at.
    """

    def __init__(self, defaults: Mapping[str, Any], capturable: bool):
        self._defaults = defaults
        self._capturable = capturable
        self._last: list[tuple[Any, ...]] | None = None
        self._settings: Settings | None = None

    def __call__(self, groups: Sequence[dict[str, Any]]) -> Settings:
        """The settings.

        Raises:
            SettingError: A value is outside its range, or groups disagree where they must agree.
        """
        try:
            values = [_values(group) for group in groups]
        except KeyError:
            for group in groups:
                for name, value in self._defaults.items():
                    group.setdefault(name, value)
            values = [_values(group) for group in groups]
        if self._settings is not None and values == self._last:
            return self._settings
        settings = self._read(groups)
        # A tensor may change in place, and would equal itself all the same.
        plain = not any(isinstance(value, Tensor) for row in values for value in row)
        self._last, self._settings = (values, settings) if plain else (None, None)
        return settings

    def _read(self, groups: Sequence[dict[str, Any]]) -> Settings:
        for group in groups:
            check(group, self._capturable)
        rate, damping = groups[0]["lr"], self._shared(groups, "damping", "one Gram matrix serves all parameter groups")
        return Settings(
            lr=rate if all(self._same(group["lr"], rate) for group in groups) else None,
            largest_lr=None if self._capturable else float(max(group["lr"] for group in groups)),
            damping=damping if self._capturable else float(damping),
            momentum=any(group["momentum"] for group in groups),
            weight_decay=any(group["weight_decay"] for group in groups),
            max_step_norm=self._shared(groups, "max_step_norm", "it limits the step of all parameter groups together"),
            step_length=self._shared(groups, "step_length", "one search serves all parameter groups"),
        )

    def _shared(self, groups: Sequence[Mapping[str, Any]], name: str, reason: str) -> Any:
        first = groups[0][name]
        if not all(self._same(group[name], first) for group in groups):
            raise SettingError(f"{reason}, so {name} must agree: {[group[name] for group in groups]}")
        return first

    def _same(self, value: Any, other: Any) -> bool:
        """Tensors whose values are not looked at are the same if they are one tensor."""
        if self._capturable and (isinstance(value, Tensor) or isinstance(other, Tensor)):
            return value is other
        return bool(value == other)


_values = operator.itemgetter(*RANGES)


def check(group: Mapping[str, Any], capturable: bool) -> None:
    """Holds the settings of one group to their ranges.

    Raises:
        SettingError: Says which setting, its value, and what is allowed.
    """
    if capturable and group["max_step_norm"] is not None:
        raise SettingError("max_step_norm decides by a value: it goes with capturable=False only")
    for name, (fits, words) in RANGES.items():
        value = group[name]
        if capturable and isinstance(value, Tensor):
            if name not in ON_DEVICE:
                raise SettingError(f"{name} must be a number where the step is capturable, got a tensor")
            continue
        if capturable and name == "damping" and value == 0:
            raise SettingError("damping must be > 0 where the step is capturable: without, the system may be singular")
        if type(value) is not float and not isinstance(value, NUMBERS) and not (value is None and name in OPTIONAL):
            raise SettingError(f"{name} must be {words}, got {type(value).__name__} {value!r}")
        if not fits(value):
            raise SettingError(f"{name} must be {words}, got {value}")
