"""The user's own code: found by import path or entry point, and asked what settings it takes.

A suite file names it as ``package.module:attribute``, or by a name that an installed package has registered. Modules
are looked for in Python's own places first, then in the suite file's folder and in the working folder. What a suite
keeps of own code is a record; only reading a suite file and running a trial import it.
"""

import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator

from .errors import UserError, unknown_name
from .frozen import Frozen
from .plugin_source import source_digest

__all__ = [
    "EXPECTED", "METHODS", "MODELS", "OwnCode", "Place", "accepts", "checked_settings", "find", "group_of",
    "load", "missing_settings", "registered",
]  # fmt: skip

METHODS, MODELS = "ggn.methods", "ggn.models"  # groups of entry points, and what the code is to make

FIRST = ("model", "module", "params", "parameters")  # what a method's first parameter may be called
DIMENSIONS = ("inputs", "outputs")  # what a model is made for
OFFERED = ("seed", "generator", "shape")  # given to a model that asks for it

EXPECTED = {
    METHODS: "expected factory(model, **settings), which gives an object with step(inputs, targets), or "
    "factory(params, **settings), which gives a torch.optim.Optimizer",
    MODELS: "expected function(inputs, outputs, **options), which gives a torch.nn.Module; it may also take seed, "
    "generator or shape",
}

Parameters = dict[str, inspect.Parameter]

_added: list[str] = []  # folders that this process looks for modules in, besides Python's own places


class Place(Frozen):
    """Where the user's own code is found.

    Attributes:
        path: "package.module:attribute".
        digest: Of its source, and of the versions of what it imports.
        folders: Where to look for the module, after Python's own places; no part of a trial's identity.
    """

    path: str
    digest: str
    folders: tuple[str, ...] = ()


class OwnCode(Frozen):
    """Own code with the settings that it is called with; they stand beside its name, as those of built-in methods do.

    Attributes:
        name: What the suite file calls it.
        plugin: Where it is found.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    name: str
    plugin: Place

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, values: Any) -> Any:
        return {key: _frozen(value) for key, value in values.items()} if isinstance(values, dict) else values

    @property
    def settings(self) -> dict[str, Any]:
        """What it is called with."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def label(self) -> str:
        """The function's own name."""
        return self.name.rpartition(":")[2]

    def identity(self) -> dict[str, Any]:
        """The content of the source counts, not its folder: edited code makes new trials, moved code does not."""
        return self.model_dump(mode="json", exclude={"plugin": {"folders"}})


def registered(group: str) -> dict[str, str]:
    """Names that installed packages have registered → import paths."""
    return {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=group)}


def group_of(name: str, folders: Sequence[Path]) -> str:
    """What own code makes, judged by how it is registered or by its parameters.

    Raises:
        UserError: As for ``find``.
    """
    if ":" not in name:
        return MODELS if name in registered(MODELS) else METHODS
    place = Place(path=name, digest="", folders=tuple(str(folder.resolve()) for folder in folders))
    try:
        parameters = inspect.signature(load(place)).parameters
    except (TypeError, ValueError):
        return METHODS
    return MODELS if all(dimension in parameters for dimension in DIMENSIONS) else METHODS


def find(name: str, group: str, folders: Sequence[Path]) -> Place:
    """Finds own code by the name that a suite file gives it.

    Args:
        name: "package.module:attribute", or a registered name.
        group: Of entry points: what the code is to make.
        folders: Where to look for the module, after Python's own places.

    Raises:
        UserError: No such module or attribute, the import fails, or the signature is not that of the group.
    """
    known = registered(group)
    if ":" not in name and name not in known:
        kind = group.removeprefix("ggn.").removesuffix("s")
        raise UserError(f"{unknown_name(kind, name, known)}; or give package.module:attribute")
    path = known.get(name, name)
    place = Place(path=path, digest="", folders=tuple(dict.fromkeys(str(folder.resolve()) for folder in folders)))
    _options(load(place), path, group)
    return place.model_copy(update={"digest": source_digest(path)})


def load(place: Place) -> Callable[..., Any]:
    """Imports own code.

    Raises:
        UserError: As for ``find``; or the source is not the one that the digest was made of.
    """
    module_name, _, attribute = place.path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise UserError(f"'{place.path}': give package.module:attribute")
    module = _import(module_name, place)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(module, "__file__", None) or module_name
            allowed = [name for name in vars(found) if not name.startswith("_")]
            raise UserError(f"'{place.path}': {where}: {unknown_name('attribute', part, allowed)}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"'{place.path}': is a {type(found).__name__}, not something to call")
    if place.digest and source_digest(place.path) != place.digest:
        raise UserError(f"'{place.path}': the source, or a package it imports, has changed since the suite was read")
    return found  # type: ignore[no-any-return]


def checked_settings(place: Place, group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the code takes them.

    Args:
        place: Where the code is found.
        group: Of entry points: what the code is to make.
        settings: As the suite file has them.

    Returns:
        The same, with whole numbers and text such as "1e-3" (no number to YAML) turned into the numbers asked for.

    Raises:
        UserError: A setting that the code does not take, or a value that is neither a number, a text, a truth value,
            nor a list of them.
    """
    parameters = _options(load(place), place.path, group)
    named = _named(parameters)
    for name in named:
        if name in OwnCode.model_fields:
            raise UserError(f"'{place.path}': a setting cannot be called '{name}' here; wrap the function")
    for key in settings:
        if key not in named and not _takes_any(parameters):
            known = unknown_name("setting", str(key), named) if named else f"it takes no settings, found '{key}'"
            raise UserError(f"'{place.path}': {known}")
    return {key: _coerced(value, named.get(key), f"'{place.path}': {key}") for key, value in settings.items()}


def missing_settings(place: Place, group: str, given: Collection[str]) -> list[str]:
    """The settings that the code cannot do without and that are not among those given."""
    named = _named(_options(load(place), place.path, group))
    return [name for name, parameter in named.items() if parameter.default is parameter.empty and name not in given]


def accepts(place: Place, group: str, setting: str) -> bool:
    """Whether the code takes a setting of this name."""
    parameters = _options(load(place), place.path, group)
    return setting in _named(parameters) or _takes_any(parameters)


def _named(parameters: Parameters) -> Parameters:
    """Those that can be given by name."""
    return {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _takes_any(parameters: Parameters) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _import(module_name: str, place: Place) -> Any:
    top = module_name.partition(".")[0]
    places = [*(entry for entry in sys.path if entry not in _added), *place.folders]
    spec = PathFinder.find_spec(top, places) or _spec(top)
    if spec is None:
        where = " or ".join(place.folders)
        raise UserError(f"'{place.path}': no module '{top}' in {where}, nor among what is installed")
    known = sys.modules.get(top)
    if known is not None and spec.origin != getattr(known.__spec__, "origin", spec.origin):
        raise UserError(
            f"'{place.path}': there are two modules '{top}', {spec.origin} and {known.__file__}; rename one, or run "
            "their suites one by one"
        )
    for folder in place.folders:
        if folder not in sys.path:
            sys.path.append(folder)
            _added.append(folder)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UserError(f"'{place.path}': no module '{error.name}'; '{top}' is {spec.origin}") from None
        raise UserError(f"'{place.path}': importing '{module_name}' failed: {_told(error)}") from None
    except (Exception, SystemExit) as error:  # the module's own code may raise anything
        raise UserError(f"'{place.path}': importing '{module_name}' failed: {_told(error)}") from None


def _spec(top: str) -> ModuleSpec | None:
    """By all of Python's finders, such as those of packages installed in editable mode."""
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # a module without a record of where it is from
        return None


def _options(found: Callable[..., Any], path: str, group: str) -> Parameters:
    """The parameters that are settings.

    Raises:
        UserError: Those before them are not what the harness hands over.
    """
    try:
        parameters = dict(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        raise UserError(f"'{path}': its parameters cannot be read, wrap it in a function; {EXPECTED[group]}") from None
    given = list(parameters)[:1] if group == METHODS else [*DIMENSIONS]
    fits = given[:1] and given[0] in FIRST if group == METHODS else all(name in parameters for name in given)
    if not fits:
        raise UserError(f"'{path}': takes ({', '.join(map(str, parameters.values()))}); {EXPECTED[group]}")
    offered = () if group == METHODS else OFFERED
    return {name: parameter for name, parameter in parameters.items() if name not in (*given, *offered)}


def _coerced(value: Any, parameter: inspect.Parameter | None, where: str) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_coerced(single, parameter, where) for single in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: must be finite, found {value}")
    if not isinstance(value, str | int | float | bool | None):
        raise UserError(
            f"{where}: give a number, a text, true or false, or a list of them; found {type(value).__name__}"
        )
    annotation = parameter.annotation if parameter is not None else None
    default = parameter.default if parameter is not None else None
    wants_text = isinstance(default, str) or "str" in str(annotation)
    if isinstance(value, str) and not wants_text:
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    wants_float = isinstance(default, float) or annotation in (float, "float")
    return float(value) if wants_float and type(value) is int else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(single) for single in value) if isinstance(value, list | tuple) else value


def _told(error: BaseException) -> str:
    """The error, with the place in the user's files where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"
