"""Goes through the suite: every case once, and what that does not settle again on fresh processes."""

import fnmatch
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..environment import Facts, environment
from ..errors import UserError
from ..frozen import Frozen
from .commits import BENCHMARKS, Commit, Repository, scratch_folder
from .pairs import AGAIN, BASE, HEAD, SIDES, Case, Round, measure, pin_to_quiet_core
from .process import CaseError, Process, crew
from .verdict import THRESHOLD, Finding, Status, Verdict, judge, overall

__all__ = ["Report", "Settings", "compare"]

ROUNDS = 3


class Settings(Frozen):
    """How to measure.

    Attributes:
        only: Parts of names, or patterns with ``*``; empty for all benchmarks.
        pairs: Turns a case and round; a repeated round takes twice as many.
        threads: What torch may use.
        threshold: The relative change below which nothing counts.
        seed: Of the order of the turns.
    """

    only: tuple[str, ...] = ()
    pairs: int = 50
    threads: int = 1
    threshold: Annotated[float, Field(gt=0)] = THRESHOLD
    seed: int = 0


class Report(Frozen):
    """The whole result: everything that the verdict was computed from."""

    verdict: Verdict
    base: Commit
    head: Commit
    findings: list[Finding]
    notes: list[str]
    settings: Settings
    environment: Facts


# Told before each measurement: the case, its number, of how many, in which round.
Progress = Callable[[str, int, int, int], None]


def compare(repository: Repository, base: Commit, head: Commit, settings: Settings, progress: Progress) -> Report:
    """Measures both commits.

    Raises:
        UserError: No benchmark fits, or the base commit cannot even be imported.
    """
    if not repository.has(head.hash, f"{BENCHMARKS}/__init__.py"):
        raise UserError(f"commit '{head.name}' ({head.short}) holds no {BENCHMARKS}/: nothing to measure with")
    notes = _notes(repository, base, head)
    with scratch_folder() as scratch:
        trees = {
            BASE: repository.lay(base, scratch / "tree-base", benchmarks_of=head),
            HEAD: repository.lay(head, scratch / "tree-head"),
        }
        trees[AGAIN] = trees[BASE]
        listed = _listed(trees[HEAD], scratch / "list", settings.threads)
        findings = _broken(listed, trees[BASE], scratch, settings)
        cases = [case for case in listed.cases if _fits(case.id, settings.only)]
        if not cases and not findings:
            names = sorted({case.id.partition("(")[0] for case in listed.cases})
            raise UserError(f"no benchmark matches {' or '.join(settings.only)}; there are: {', '.join(names)}")
        if listed.cases and repository.differ(base, head, BENCHMARKS):
            findings += _removed(repository, base, listed, scratch, settings)
        findings += _measured(trees, cases, scratch, settings, progress)
    return Report(
        verdict=overall(findings),
        base=base,
        head=head,
        findings=findings,
        notes=notes,
        settings=settings,
        environment=environment(),
    )


def _notes(repository: Repository, base: Commit, head: Commit) -> list[str]:
    notes = []
    if base.hash == head.hash:
        notes.append("both names stand for the same commit: any finding would be a false alarm")
    if repository.is_dirty():
        notes.append("the checkout holds changes that are not committed; they were not measured")
    if repository.differ(base, head, BENCHMARKS):
        notes.append("the benchmarks themselves differ between the commits; both commits were measured by the head's")
    return notes


class _Listed(Frozen):
    """The cases of a tree's benchmarks, and the error of what cannot be imported, by module."""

    cases: list[Case]
    broken: dict[str, str]


def _listed(tree: Path, scratch: Path, threads: int) -> _Listed:
    process = Process(tree, scratch, threads)
    try:
        process.ask("hello")
        records = process.ask("cases")
    except CaseError as failure:
        return _Listed(cases=[], broken={"import ggn_core": str(failure)})
    finally:
        process.stop()
    return _Listed(
        cases=[Case.model_validate(record) for record in records if "error" not in record],
        broken={record["id"]: record["error"] for record in records if "error" in record},
    )


def _broken(listed: _Listed, base_tree: Path, scratch: Path, settings: Settings) -> list[Finding]:
    """The head's modules that cannot be imported, told apart by whether they can at the base."""
    if not listed.broken:
        return []
    at_base = _listed(base_tree, scratch / "list-base", settings.threads).broken
    return [
        Finding(id=name, status=Status.BROKEN if name in at_base else Status.FAILED, reason=error)
        for name, error in listed.broken.items()
        if not listed.cases or _fits(name, settings.only) or any(only.startswith(name) for only in settings.only)
    ]


def _removed(repository: Repository, base: Commit, listed: _Listed, scratch: Path, settings: Settings) -> list[Finding]:
    """The base's own cases that the head no longer has: a commit can hide a slowdown by deleting its benchmark."""
    if not repository.has(base.hash, f"{BENCHMARKS}/__init__.py"):
        return []
    own = _listed(repository.lay(base, scratch / "tree-own"), scratch / "list-own", settings.threads)
    left = {case.id for case in listed.cases}
    return [
        Finding(id=case.id, status=Status.REMOVED, unit=case.unit)
        for case in own.cases
        if case.id not in left and case.module not in listed.broken and _fits(case.id, settings.only)
    ]


def _measured(
    trees: dict[str, Path], cases: Sequence[Case], scratch: Path, settings: Settings, progress: Progress
) -> list[Finding]:
    rounds: dict[str, tuple[Case, list[Round]]] = {case.id: (case, []) for case in cases}
    findings: list[Finding] = []
    waiting = list(cases)
    order = random.Random(settings.seed)
    for number in range(1, ROUNDS + 1):
        if not waiting:
            break
        pairs = settings.pairs if number == 1 else 2 * settings.pairs
        # Who starts first, too, is drawn: it decides on the memory that a process gets.
        drawn = {side: trees[side] for side in order.sample(SIDES, len(SIDES))}
        with crew(drawn, scratch / f"round-{number}", settings.threads) as sides:
            _greet(sides)
            for position, case in enumerate(waiting, 1):
                progress(case.id, position, len(waiting), number)
                pin_to_quiet_core(sides, settings.threads)
                rounds[case.id][1].append(measure(case, sides, pairs, order))
        findings = judge(rounds, settings.threshold)
        waiting = [rounds[finding.id][0] for finding in findings if not finding.settled]
    return findings


def _greet(sides: dict[str, Process]) -> None:
    """Waits until all have started: an import beside a measurement would disturb it."""
    for side, process in sides.items():
        try:
            process.ask("hello")
        except CaseError as failure:
            if side != HEAD:
                raise UserError(f"the base commit cannot be imported: {failure}") from None


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(
        fnmatch.fnmatchcase(name, f"*{pattern}*" if "*" not in pattern else pattern) for pattern in patterns
    )
