"""Two commits of a checkout, their source laid side by side in a folder that does not outlive the gate."""

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..frozen import Frozen

__all__ = ["BENCHMARKS", "Commit", "Repository", "scratch_folder"]

BENCHMARKS = "suites/benchmarks"
PREFIX = "ggn-gate-"


class Commit(Frozen):
    """A commit as the user named it, and what it is.

    Attributes:
        name: What the user typed.
        hash: All forty digits.
        subject: The first line of its message.
    """

    name: str
    hash: str
    subject: str

    @property
    def short(self) -> str:
        return self.hash[:10]


class Repository:
    """The git checkout around a folder.

    Raises:
        UserError: There is none, or git itself is missing.
    """

    def __init__(self, folder: Path):
        try:
            self.root = Path(_git(folder, "rev-parse", "--show-toplevel"))
        except FileNotFoundError:
            raise UserError("git is not installed; the gate takes its commits from a git checkout") from None
        except subprocess.CalledProcessError:
            raise UserError(f"{folder} is not inside a git checkout: run ggn gate from one of this project") from None

    def commit(self, name: str) -> Commit:
        """The commit that ``name`` (a hash, branch, tag, HEAD~1, …) stands for.

        Raises:
            UserError: There is no such commit, or it does not hold this project.
        """
        try:
            found = _git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except subprocess.CalledProcessError:
            shallow = _git(self.root, "rev-parse", "--is-shallow-repository") == "true"
            hint = "; this clone is shallow: git fetch --unshallow" if shallow else ""
            raise UserError(f"unknown commit '{name}' in {self.root}{hint}") from None
        if not self.has(found, "ggn_core/__init__.py"):
            raise UserError(f"commit '{name}' ({found[:10]}) holds no ggn_core/: nothing to measure")
        return Commit(name=name, hash=found, subject=_git(self.root, "log", "-1", "--format=%s", found))

    def has(self, commit: str, path: str) -> bool:
        return _succeeds(self.root, "cat-file", "-e", f"{commit}:{path}")

    def is_dirty(self) -> bool:
        """Whether the checkout holds changes that no commit has."""
        return bool(_git(self.root, "status", "--porcelain", "--untracked-files=no"))

    def differ(self, first: Commit, second: Commit, path: str) -> bool:
        """Whether the two commits differ below ``path``."""
        return not _succeeds(self.root, "diff", "--quiet", first.hash, second.hash, "--", path)

    def lay(self, commit: Commit, folder: Path, benchmarks_of: Commit | None = None) -> Path:
        """Writes the commit's files into ``folder``, with the benchmarks of another commit if asked to.

        Whoever changes the code must not change how it is measured: one commit's benchmarks serve both.
        """
        folder.mkdir(parents=True)
        self._extract(commit, folder)
        if benchmarks_of is not None:
            shutil.rmtree(folder / "suites", ignore_errors=True)
            self._extract(benchmarks_of, folder, "suites")
        return folder

    def _extract(self, commit: Commit, folder: Path, *paths: str) -> None:
        command = ["git", "-C", str(self.root), "archive", "--format=tar", commit.hash, *paths]
        packed = subprocess.run(command, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the gate's files: removed at the end, and by the next gate where this one is killed."""
    parent = Path(tempfile.gettempdir())
    for old in parent.glob(f"{PREFIX}*"):
        owner = re.match(rf"{PREFIX}(\d+)-", old.name)
        if owner is not None and not _is_alive(int(owner[1])):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _succeeds(folder: Path, *arguments: str) -> bool:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True).returncode == 0
