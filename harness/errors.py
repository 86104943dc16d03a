"""Errors that are the user's to mend: shown as a message, without a traceback, with exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["UserError", "unknown_name"]


class UserError(Exception):
    """The input is wrong: the message says what, where, and what is allowed."""


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> str:
    """A message for a name that is not one of ``allowed``, with the nearest one that is."""
    allowed = sorted(allowed)
    near = get_close_matches(name, allowed, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"unknown {what} '{name}'{hint}; allowed: {', '.join(allowed)}"
