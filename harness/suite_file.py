"""Reads suite files.

In a suite file a list is an axis, wherever it stands: ``width: [64, 256]`` makes two problems, ``lr: [0.1, 1]`` two
methods. Reading a file replaces such lists by their combinations; the rest is checked by the models of suite.py.
The user's own methods and models are looked for beside the file, and checked against their own parameters.
"""

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .errors import UserError, unknown_name
from .frozen import as_tuple
from .methods import METHODS
from .plugins import METHODS as OWN_METHODS
from .plugins import MODELS as OWN_MODELS
from .plugins import OwnCode, checked_settings, find, missing_settings, registered
from .problems import PROBLEMS
from .selection import laid_over, part, restricted, set_value
from .stepcost_suite import StepCostSuite
from .suite import Limits, Suite
from .theory_suite import TheorySuite
from .training_suite import TrainingSuite, Tuning
from .trial import Budget

__all__ = ["KINDS", "SUITES", "load_suite", "read_mapping", "shipped_suites"]

KINDS: dict[str, type[Suite]] = {"training": TrainingSuite, "step_cost": StepCostSuite, "theory": TheorySuite}

SUITES = Path(__file__).resolve().parent.parent / "suites"


def shipped_suites() -> dict[str, Path]:
    """The suites that come with the project, by name: "quickstart", "paper/rsna"."""
    paths = [*sorted(SUITES.glob("*.yaml")), *sorted(SUITES.glob("paper/*.yaml"))]
    return {path.relative_to(SUITES).with_suffix("").as_posix(): path for path in paths}


def load_suite(
    name: str, default_threads: int, changes: Sequence[str] = (), only: Sequence[str] = (), full: bool = False
) -> Suite:
    """Reads a shipped suite by name, or a suite file by path.

    Args:
        name: "quickstart", or "my/suite.yaml".
        default_threads: For a suite that does not say.
        changes: What to set before the suite is understood, such as "problem.width=[64, 256]".
        only: Which part of the suite to keep, such as "method=ggn" or "problem.width=64".
        full: Lay over the suite what its key ``full`` says: the long version.

    Raises:
        UserError: No such suite, or something in it is not allowed; the message names file, key and allowed values.
    """
    path = shipped_suites().get(name)
    if path is None and (name.endswith((".yaml", ".yml")) or Path(name).is_file()):
        path = Path(name)
    if path is None:
        raise UserError(unknown_name("suite", name, shipped_suites()) + "; or the path of a .yaml file")
    raw = _read_with_base(path)
    long_version = raw.pop("full", {})
    if not isinstance(long_version, dict):
        raise UserError(f"{path}: full: a mapping of what the long version changes, found {_kind(long_version)}")
    if full:
        raw = laid_over(raw, long_version)
    for change in changes:
        set_value(raw, change)
    kept = [part(text) for text in only] + _parts(raw.pop("only", None), path)
    measure = raw.get("measure", "training")
    if not isinstance(measure, str) or measure not in KINDS:
        raise UserError(f"{path}: measure: {unknown_name('measure', str(measure), KINDS)}")
    kind = KINDS[measure]
    try:
        return restricted(kind.model_validate(_expanded(raw, path, default_threads)), kept)
    except ValidationError as error:
        raise UserError("\n".join(_messages(error, kind, path))) from None


def _read_with_base(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping, laid over that of the suite it extends."""
    raw = read_mapping(path, "a suite")
    if "extends" not in raw:
        return raw
    name = raw.pop("extends")
    if not isinstance(name, str):
        raise UserError(f"{path}: extends: give the name or the file of one suite, found {_kind(name)}")
    base = shipped_suites().get(name, (path.parent / name).resolve())
    if base in (path.resolve(), *seen):
        raise UserError(f"{path}: extends: goes round in a circle by way of {base}")
    below = _read_with_base(base, (*seen, path.resolve()))
    below.pop("full", None)  # the long version of another suite is not this one's
    return laid_over(below, raw)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        UserError: It cannot be read, is no YAML, names a key twice, or holds something else.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: {what} is a mapping of keys to values, this is {_kind(raw)}")
    return raw


def _parts(value: Any, path: Path) -> list[tuple[str, str]]:
    """``only: {method: ggn, problem.width: 64}`` in a file."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise UserError(f"{path}: only: a mapping of what to keep, such as {{method: ggn}}, found {_kind(value)}")
    return [part(f"{key}={single}") for key, values in value.items() for single in as_tuple(values)]


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which would let the last of several equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key '{key.value}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _expanded(raw: Mapping[str, Any], path: Path, default_threads: int) -> dict[str, Any]:
    """Turns the lists of the file into tuples of single values, one entry a combination."""
    expanded = dict(raw)
    expanded.setdefault("threads", default_threads)
    for key in ("batch_size", "device", "dtype", "threads"):
        if key in expanded:
            expanded[key] = _axis(expanded[key], key, path)
    if "problem" in raw:
        expanded["problem"] = tuple(
            combination
            for entry in _axis(raw["problem"], "problem", path)
            for combination in _combinations(_named(entry, "problem", path), PROBLEMS, "problem", path)
        )
    if "methods" in raw:
        if any(map(_is_own_method, _searched(raw))):
            expanded["tuning"] = raw["tuning"] | {"spaces": _checked_spaces(_searched(raw), path)}
        expanded["methods"] = tuple(
            combination
            for entry in _method_entries(raw["methods"], path)
            for combination in (
                _own_combinations(entry, OWN_METHODS, path, _searched(raw).get(entry["name"]), _also_untuned(raw))
                if _is_own_method(entry["name"])
                else _combinations(entry, METHODS, "method", path)
            )
        )
    return expanded


def _axis(value: Any, key: str, path: Path) -> tuple[Any, ...]:
    values = as_tuple(value)
    if not values:
        raise UserError(f"{path}: {key}: an empty list leaves nothing to run")
    return values


def _named(entry: Any, key: str, path: Path) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        return entry
    raise UserError(f"{path}: {key}: give a name, or a mapping with 'name' and options; found {_kind(entry)}")


def _method_entries(value: Any, path: Path) -> Iterator[dict[str, Any]]:
    """``[ggn, adam]``, ``{ggn: {lr: 1}}`` and ``[{name: ggn, lr: 1}]`` all say the same kind of thing."""
    if isinstance(value, dict):
        for name, settings in value.items():
            if not isinstance(settings, dict | None):
                raise UserError(f"{path}: methods.{name}: settings are a mapping, found {_kind(settings)}")
            if settings and settings.get("name", name) != name:
                raise UserError(f"{path}: methods.{name}: has another name inside, {_kind(settings['name'])}")
            yield {**(settings or {}), "name": str(name)}
        return
    for entry in _axis(value, "methods", path):
        yield _named(entry, "methods", path)


def _combinations(
    entry: dict[str, Any], registry: Mapping[str, Any], what: str, path: Path
) -> Iterator[dict[str, Any]]:
    name = entry["name"]
    if name not in registry:
        own = registered(OWN_METHODS) if what == "method" else {}
        raise UserError(f"{path}: {unknown_name(what, name, {*registry, *own})}")
    model = registry[name][0] if isinstance(registry[name], tuple) else registry[name]
    _refuse_unknown_keys(entry, model, f"{what} '{name}'", path)
    axes: dict[str, tuple[Any, ...]] = {
        key: tuple(_models(value, path))
        if key == "model"
        else (value,)
        if _is_tuple_field(model, key)
        else _axis(value, f"{what}.{key}", path)
        for key, value in entry.items()
    }
    network = PROBLEMS[name].NETWORK if what == "problem" else ()
    if "model" in axes and any(key in axes for key in network):
        raise UserError(
            f"{path}: problem '{name}': {', '.join(network)} are the built-in model's, not those of 'model'"
        )
    if "path" in axes:  # relative to the suite file, wherever the command is typed
        axes["path"] = tuple(
            value if value is None else str((path.parent / Path(str(value)).expanduser()).resolve())
            for value in axes["path"]
        )
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _models(value: Any, path: Path) -> Iterator[OwnCode]:
    """The user's own models: "module:function", a mapping with that as its name and with options, or a list of them."""
    for entry in _axis(value, "problem.model", path):
        for combination in _own_combinations(_named(entry, "problem.model", path), OWN_MODELS, path):
            yield OwnCode.model_validate(combination)


def _is_own_method(name: Any) -> bool:
    return isinstance(name, str) and name not in METHODS and (":" in name or name in registered(OWN_METHODS))


def _own_combinations(
    entry: dict[str, Any], group: str, path: Path, searched: Any = None, also_untuned: bool = False
) -> Iterator[dict[str, Any]]:
    """The user's own code with each combination of its settings; ``searched`` ones will be given besides."""
    name = entry["name"]
    axes = {str(key): _axis(value, f"{name}.{key}", path) for key, value in entry.items() if key != "name"}
    later = searched if isinstance(searched, dict) else {}
    with _placed(path):
        place = find(name, group, (path.parent, Path.cwd()))
        combinations = [
            checked_settings(place, group, dict(zip(axes, values, strict=True)))
            for values in itertools.product(*axes.values())
        ]
        missing = missing_settings(place, group, {*axes, *(() if also_untuned else later)})
        if missing:
            why = (
                " under methods, to be evaluated without its search (tuning.defaults)" if later and also_untuned else ""
            )
            raise UserError(f"'{name}': needs a value for {' and '.join(missing)}{why}")
    for settings in combinations:
        yield {**settings, "name": name, "plugin": place}


def _searched(raw: Mapping[str, Any]) -> dict[Any, Any]:
    """The spaces of the suite's search, by method, where the file is well-formed so far."""
    tuning = raw.get("tuning")
    spaces = tuning.get("spaces") if isinstance(tuning, dict) else None
    return spaces if isinstance(spaces, dict) else {}


def _also_untuned(raw: Mapping[str, Any]) -> bool:
    """Whether the methods that are searched are evaluated without what the search gives, too."""
    return bool(_searched(raw)) and bool(raw["tuning"].get("defaults"))


def _checked_spaces(spaces: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """The spaces, with the values of the user's own methods as these take them."""
    checked = dict(spaces)
    for name, space in spaces.items():
        if _is_own_method(name) and isinstance(space, dict):
            with _placed(path):
                place = find(name, OWN_METHODS, (path.parent, Path.cwd()))
                checked[name] = {
                    key: tuple(checked_settings(place, OWN_METHODS, {key: value})[key] for value in as_tuple(values))
                    for key, values in space.items()
                }
    return checked


@contextmanager
def _placed(path: Path) -> Iterator[None]:
    """Tells the suite file in errors about the user's own code."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _refuse_unknown_keys(entry: Mapping[str, Any], model: type[BaseModel], where: str, path: Path) -> None:
    allowed = [key for key in model.model_fields if key != "digest"]  # which is found, not given
    for key in entry:
        if key not in allowed:
            raise UserError(f"{path}: {where}: {unknown_name('key', str(key), allowed)}")


def _is_tuple_field(model: type[BaseModel], key: str) -> bool:
    return getattr(model.model_fields[key].annotation, "__origin__", None) is tuple


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _messages(error: ValidationError, kind: type[Suite], path: Path) -> Iterator[str]:
    items = error.errors()
    for item in items:
        depth = len(item["loc"])
        if item["type"] == "too_short" and any(x["loc"][:depth] == item["loc"] != x["loc"] for x in items):
            continue  # it is short of the entries that have a message of their own
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            *parents, key = (str(part) for part in item["loc"])
            allowed = _allowed_keys(kind, parents)
            yield f"{path}: {'.'.join(parents) + ': ' if parents else ''}{unknown_name('key', key, allowed)}"
        elif item["type"] == "missing":
            yield f"{path}: the key '{place}' is missing"
        else:
            value = "" if isinstance(item["input"], dict | tuple | list) else f", found {item['input']!r}"
            yield f"{path}: {place + ': ' if place else ''}{item['msg'].removeprefix('Value error, ')}{value}"


def _allowed_keys(kind: type[Suite], parents: list[str]) -> list[str]:
    models: dict[tuple[str, ...], type[BaseModel]] = {
        (): kind,
        ("tuning",): Tuning,
        ("budget",): Budget,
        ("tuning", "budget"): Budget,
        ("limits",): Limits,
    }
    return list(models[tuple(parents)].model_fields) if tuple(parents) in models else []
