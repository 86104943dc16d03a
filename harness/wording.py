"""Words of messages and tables."""

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """How many there are of something whose plural takes an s: "1 seed", "20 seeds"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
