"""What a folder of images holds: the images that are used, each with its target, and what was left out, and why."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from ...errors import UserError

__all__ = ["PARTS", "Entry", "File", "Finding", "Listing", "Part", "Search"]

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")

EXAMPLES = 5


class Entry(NamedTuple):
    """An image that is used.

    Attributes:
        path: Relative to the listing's root, with "/" between folders.
        target: In the data set's unit.
        part: Of the official split, or None where there is none.
        size: In bytes.
        mtime_ns: When the file was last written.
    """

    path: str
    target: float
    part: Part | None
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Finding:
    """Something odd: how often it was met, and the first few examples."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.reason}: {self.count:,} ({shortened(self.examples, self.count)})"


@dataclass(frozen=True)
class Listing:
    """What a folder holds of a data set.

    Attributes:
        name: The data set's, as in ``IMAGE_SETS``.
        root: The innermost folder that has all the images, whichever folder the user named.
        entries: The images, sorted by path.
        left_out: What is not used, by reason.
        remarks: What is odd, but costs no image.
    """

    name: str
    root: Path
    entries: tuple[Entry, ...]
    left_out: tuple[Finding, ...]
    remarks: tuple[Finding, ...]

    @cached_property
    def stamp(self) -> str:
        """SHA-256 over path, size, target and part of every image: the same for a folder that was moved or copied."""
        return _sha256(f"{e.path}\0{e.size}\0{e.target!r}\0{e.part}\n" for e in self.entries)

    @cached_property
    def state(self) -> str:
        """SHA-256 over size and time of every image: another one once a file was written, even with equal size."""
        return _sha256(f"{e.path}\0{e.size}\0{e.mtime_ns}\n" for e in self.entries)

    @property
    def parts(self) -> dict[Part | None, int]:
        """How many images each part has; those of the data set without an official split stand under None."""
        parts = [entry.part for entry in self.entries]
        return {part: parts.count(part) for part in (*PARTS, None) if part in parts}

    def lines(self) -> list[str]:
        """What was found, in words."""
        parts = ", ".join(f"{count:,} {part}" for part, count in self.parts.items() if part is not None)
        return [
            f"{self.root}: {len(self.entries):,} images" + (f" ({parts})" if parts else ""),
            *(f"left out: {finding}" for finding in self.left_out),
            *(f"remarked: {finding}" for finding in self.remarks),
        ]


class File(NamedTuple):
    """A file below the folder that is searched; its path is relative to that, with "/" between folders."""

    path: str
    size: int
    mtime_ns: int


class Tally:
    """Counts what is odd, by reason."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, reason: str, *examples: str) -> None:
        self._found.setdefault(reason, []).extend(examples)

    def findings(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(reason, len(found), tuple(map(_printable, found[:EXAMPLES])))
            for reason, found in self._found.items()
            if found
        )


class Search:
    """Goes through all files below a folder, and sorts them into what is used and what is left out.

    Args:
        folder: The data set, or a folder that holds it.
        name: The data set's.
        folders: Names under which the data set is looked for inside ``folder``.
        layout: The names of its images, for messages.

    Raises:
        UserError: There is no such folder, it cannot be read, or it holds two of ``folders``.
    """

    def __init__(self, folder: Path, name: str, folders: Sequence[str], layout: str):
        if not folder.is_dir():
            raise UserError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
        self.name = name
        self.layout = layout
        self.left_out = Tally()
        self.remarks = Tally()
        try:
            self.folder = _entered(folder, folders)
            self._files = sorted(self._walk())
        except OSError as error:
            raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None

    def take(self, *endings: str) -> list[File]:
        """The files with these endings; those that nobody takes are left out."""
        taken = [file for file in self._files if file.path.lower().endswith(endings)]
        self._files = [file for file in self._files if not file.path.lower().endswith(endings)]
        hidden = [file.path for file in taken if _is_hidden(file.path)]
        self.left_out.add("hidden file", *hidden)
        return [file for file in taken if not _is_hidden(file.path)]

    def listing(self, used: Sequence[tuple[File, str, float, Part | None]]) -> Listing:
        """The listing of the images used.

        Args:
            used: Each with the folder at which the data set's layout begins, as a beginning of its path; its target;
                its part.

        Raises:
            UserError: There are none.
        """
        self.left_out.add("file of another kind", *(file.path for file in self._files))
        if not used:
            found = "; ".join(map(str, self.left_out.findings())) or "no files"
            raise UserError(f"{self.folder}: no images of {self.name}: looked for {self.layout}; found {found}")
        # From the innermost common folder on, paths are the same whichever folder was named, nested or not.
        root = os.path.commonpath({begin.strip("/") for _, begin, _, _ in used})
        cut = len(root) + 1 if root else 0
        entries = (Entry(file.path[cut:], target, part, file.size, file.mtime_ns) for file, _, target, part in used)
        return Listing(
            self.name,
            self.folder / root,
            tuple(sorted(entries)),
            self.left_out.findings(),
            self.remarks.findings(),
        )

    def _walk(self) -> Iterator[File]:
        """All files below the folder. Links are followed, and each folder is gone through once."""
        seen = set()
        waiting = [(str(self.folder), "")]
        while waiting:
            place, prefix = waiting.pop()
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as inside:
                for entry in sorted(inside, key=lambda entry: entry.name):
                    path = f"{prefix}{entry.name}"
                    if entry.is_dir():
                        waiting.append((entry.path, f"{path}/"))
                    elif entry.is_file():
                        status = entry.stat()
                        yield File(path, status.st_size, status.st_mtime_ns)
                    else:
                        self.left_out.add("broken link", path)


def shortened(names: Iterable[str], count: int) -> str:
    """The first few of ``count`` names."""
    return ", ".join(names) + (", …" if count > EXAMPLES else "")


def _entered(folder: Path, names: Sequence[str]) -> Path:
    """The folder itself, or the one inside it that has the data set's name, however deep they are nested."""
    with os.scandir(folder) as inside:
        found = sorted(entry.name for entry in inside if _usual(entry.name) in names and entry.is_dir())
    if len(found) > 1:
        raise UserError(f"{folder}: holds {' and '.join(found)}: name one of them")
    return _entered(folder / found[0], names) if found else folder


def _usual(name: str) -> str:
    return name.casefold().replace("_", "-").replace(" ", "-")


def _is_hidden(path: str) -> bool:
    """Such as ``._1.jpg``, which macOS leaves beside ``1.jpg``, and ``~$labels.xlsx``, which Excel does."""
    return path.rpartition("/")[2].startswith((".", "~$"))


def _printable(name: str) -> str:
    """The name, with the bytes that are not UTF-8 written out."""
    return name.encode(errors="backslashreplace").decode()


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
