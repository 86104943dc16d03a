"""The base of every configuration and record."""

from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen", "as_tuple", "short"]


class Frozen(BaseModel):
    """An immutable record that refuses unknown keys."""

    # Written as JSON, numbers that are not finite come back as they were, not as null.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def as_tuple(value: Any) -> tuple[Any, ...]:
    """What a file gives where several values may stand: a list as it is, a single value as the only one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def short(value: Any) -> str:
    """A setting's value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return f"[{', '.join(map(short, value))}]" if isinstance(value, tuple) else str(value)
