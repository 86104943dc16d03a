"""Numbers, tables and records as plain data, for JSON."""

import math
from typing import Any

from pydantic import BaseModel

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """The same as mappings, lists, texts and finite numbers.

    JSON knows no infinity: what is infinite (a missed target, a failed trial) or unknown is None.
    """
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if hasattr(value, "_asdict"):  # a NamedTuple, such as Interval
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
