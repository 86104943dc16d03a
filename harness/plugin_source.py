"""Digests of the user's own source, so that edited code is not taken for the code that a result came from."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

__all__ = ["installed_imports", "source_digest"]

# Told with every result already: harness.environment has torch's version and a digest of this project's code.
TOLD_ELSEWHERE = {"torch", "ggn_core", "harness", "__main__"}


def source_digest(path: str) -> str:
    """Digest of what "package.module:attribute" computes with, as far as source tells.

    It covers the module's file, or its whole package; those of the modules that they import, if they are not installed
    packages; and the versions of the installed packages. What is imported by computed names is not seen.
    """
    content = hashlib.sha256(f"{path}\n".encode())
    for top in _reached(path):
        for file, name in _files(top):
            content.update(f"{name}\n".encode() + file.read_bytes())
        if _is_installed(top):
            content.update(f"{top} {_version(top)}\n".encode())
    return content.hexdigest()[:16]


def installed_imports(path: str) -> list[str]:
    """The installed packages that own code imports: dear to import, and safe to import ahead, as nobody edits them."""
    return [top for top in _reached(path) if _is_installed(top)]


def _reached(path: str) -> list[str]:
    """The top-level modules that own code comes from and imports; what installed packages import is not followed."""
    seen: list[str] = []
    waiting = [path.partition(":")[0].partition(".")[0]]
    while waiting:
        top = waiting.pop()
        if top not in seen and top not in sys.stdlib_module_names and top not in TOLD_ELSEWHERE:
            seen.append(top)
            waiting += sorted({name for file, _ in _files(top) for name in _imported(file)})
    return seen


def _files(top: str) -> Iterator[tuple[Path, str]]:
    """The source files of a top-level module that is not installed, each with its name inside its folder."""
    if _is_installed(top):
        return
    spec = importlib.util.find_spec(top)
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin is not None and Path(spec.origin).is_file():
            yield Path(spec.origin), Path(spec.origin).name
        return
    for folder in map(Path, spec.submodule_search_locations):
        for file in sorted(folder.rglob("*.py")):
            yield file, f"{top}/{file.relative_to(folder)}"


def _imported(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports, wherever in it."""
    if file.suffix != ".py":
        return set()
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # a file that nothing imports
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def _is_installed(top: str) -> bool:
    spec = importlib.util.find_spec(top) if top not in sys.builtin_module_names else None
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec is not None else []
    return any(part in ("site-packages", "dist-packages") for place in places for part in Path(place).parts)


@cache
def _version(top: str) -> str:
    """Of the distribution that a top-level module comes from."""
    try:
        return version(top)  # most bear the module's name, and looking all of them through is slow
    except PackageNotFoundError:
        names = packages_distributions().get(top, [])
        return " ".join(f"{name} {version(name)}" for name in sorted(set(names)))
