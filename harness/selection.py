"""Changes a suite before it runs: values set, one file laid over another, a part picked out.

The same words serve the command line (``--set problem.width=256 --only method=ggn``) and suite files (``extends``,
``only``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import UserError, unknown_name
from .frozen import short
from .plugins import OwnCode
from .suite import Suite

__all__ = ["laid_over", "part", "restricted", "set_value"]

AnySuite = TypeVar("AnySuite", bound=Suite)

AXES = ("batch_size", "device", "dtype", "threads")


def laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``: mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = laid_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def set_value(raw: dict[str, Any], change: str) -> None:
    """Sets one value of a suite, in place.

    Args:
        raw: The suite as its file gives it.
        change: "key=value" or "outer.inner=value", with a value as YAML would have it.

    Raises:
        UserError: Not of that form, or what stands at the outer key has no inner ones.
    """
    place, mark, text = change.partition("=")
    keys = place.split(".")
    if not mark or not all(keys):
        raise UserError(f"--set {change}: give key=value, such as problem.width=256")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {change}: '{text}' is not valid YAML") from None
    holder = raw
    while True:
        key, keys = _first(keys, holder)
        if not keys:
            break
        if holder.get(key) is None or (key == "problem" and isinstance(holder[key], str)):
            holder[key] = {"name": holder[key]} if holder.get(key) else {}
        elif isinstance(holder[key], list) and key == "methods":
            holder[key] = {str(name): {} for name in holder[key]}
        holder = holder[key]
        if not isinstance(holder, dict):
            raise UserError(f"--set {change}: '{key}' is no mapping in this suite, set it whole")
    holder[key] = _from_here(value) if key == "path" else value


def _from_here(path: Any) -> Any:
    """A path that is typed starts from the working folder, one in a suite file from that file's."""
    if isinstance(path, list):
        return [_from_here(one) for one in path]
    return str(Path.cwd() / Path(path).expanduser()) if isinstance(path, str) else path


def _first(keys: list[str], holder: dict[str, Any]) -> tuple[str, list[str]]:
    """The key that a dotted place begins with, and the rest: the user's own code has dots in its name."""
    for size in range(len(keys), 0, -1):
        if ".".join(keys[:size]) in holder:
            return ".".join(keys[:size]), keys[size:]
    size = next((place for place, key in enumerate(keys, start=1) if ":" in key), 1)
    return ".".join(keys[:size]), keys[size:]


def part(text: str) -> tuple[str, str]:
    """Reads "key=value".

    Raises:
        UserError: Not of that form.
    """
    key, mark, value = text.partition("=")
    if not key or not mark or not value:
        raise UserError(f"--only {text}: give key=value, such as method=ggn or problem.width=64")
    return key.strip(), value.strip()


def restricted(suite: AnySuite, parts: Sequence[tuple[str, str]]) -> AnySuite:
    """The suite with only those problems, methods and axes that match; several values of one key are alternatives.

    Raises:
        UserError: An unknown key, or nothing matches.
    """
    wanted: dict[str, list[str]] = {}
    for key, value in parts:
        wanted.setdefault(key, []).append(value)
    changes: dict[str, Any] = {}
    for key, values in wanted.items():
        if key in AXES:
            changes[key] = _matching(key, values, {str(value): (value,) for value in getattr(suite, key)})
        elif key == "seed":
            changes["seeds"] = _matching(key, values, {str(seed): (seed,) for seed in suite.seeds})
        elif key == "method" or key.startswith("method."):
            methods = changes.get("methods", suite.methods)
            setting = key.partition(".")[2]
            # The user's own methods go by their import path and by the last part of it.
            named = _by(setting, methods) if setting else _by("name", methods) | _by("label", methods)
            changes["methods"] = _matching(key, values, named)
        elif key == "problem" or key.startswith("problem."):
            problems = changes.get("problem", suite.problem)
            changes["problem"] = _matching(key, values, _by(key.partition(".")[2] or "label", problems))
        else:
            allowed = ("method", "problem", "seed", *AXES)
            raise UserError(f"--only: {unknown_name('key', key, allowed)}, or one of theirs such as problem.width")
    # Validated anew: what was searched for a method that is gone must go as well, what needs two methods still does.
    return suite.with_parts(changes)


def _by(attribute: str, items: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """Value of an attribute, as text → the items that have it."""
    found: dict[str, tuple[Any, ...]] = {}
    for item in items:
        value = item
        for part_of_it in attribute.split("."):
            value = getattr(value, part_of_it, None)
        if value is not None:
            text = value.label if isinstance(value, OwnCode) else short(value)
            found[text] = (*found.get(text, ()), item)
    return found


def _matching(key: str, values: Sequence[str], items: dict[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    for value in values:
        if value not in items:
            raise UserError(f"--only {key}={value}: nothing matches; the suite has {', '.join(items) or 'none'}")
    return tuple(item for text, found in items.items() if text in values for item in found)
