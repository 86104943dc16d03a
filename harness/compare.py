"""Compares what is recorded in MLflow, from any folder: runs grouped by cell, method and commit.

Seconds depend on the machine and results on the code, so that runs of another machine, torch or code are never pooled
unless ``--by`` asks for it. Of a trial that one code ran several times on one machine, the newest run counts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from .analysis.formats import interval
from .analysis.statistics import Interval, median_interval
from .connection import recorded_runs, tracking_uri
from .errors import UserError, unknown_name
from .trial import Outcome

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["Comparison", "as_records", "compare", "print_comparison"]

# Shown where nothing else is asked for: of training trials, and of step costs.
USUAL = ("epochs_to_target", "seconds_to_target", "best_test_rmse", "gradient_seconds", "step_seconds.")
CENSORED = "target_censored"

# What runs may differ in and still be pooled: the draw, and what only names or accompanies a run.
POOLED = {
    *("seed", "trial", "outcome", "configuration", "claim", "user", "dirty"),
    *("problem.name", "problem.path", "problem.unit", "problem.digest"),
    *("environment.ggn", "environment.code", "environment.memory_gib"),
}

# Tags that say nothing to compare by, or the same as another.
UNTOLD = {"kind", "role", "reason", "process", "model", "environment.commit", "environment.dirty"}


class _Trial(NamedTuple):
    """A recorded evaluation; ``started`` in milliseconds since the epoch."""

    run_id: str
    started: int
    facts: dict[str, str]
    metrics: dict[str, float]


class Row(NamedTuple):
    """One group of runs.

    Attributes:
        facts: What its runs have in common, of what they were grouped by.
        trials: How many runs.
        hits: How many met the target.
        metrics: Over the runs; a missed target or a failed trial is infinite.
        run_ids: In MLflow.
    """

    facts: dict[str, str]
    trials: int
    hits: int
    metrics: dict[str, Interval]
    run_ids: list[str]


class Comparison(NamedTuple):
    """Rows in the order of their facts; ``shown`` are the facts that set rows apart."""

    rows: list[Row]
    shown: list[str]
    metrics: list[str]


def compare(
    suites: Sequence[str], metrics: Sequence[str] = (), by: Sequence[str] = (), where: Sequence[str] = ()
) -> Comparison:
    """Groups the recorded evaluations and summarises each group.

    Args:
        suites: Names; empty for all that are recorded.
        metrics: Names; empty for the usual ones.
        by: Facts to group by; empty for all that results depend on, except the seed.
        where: Conditions "KEY=VALUE"; of several with one key, one has to hold, of several keys, all.

    Raises:
        UserError: A name that is not recorded, a condition that nothing meets, or a store that does not answer.
    """
    trials = _newest(_trial(run) for run in recorded_runs(suites))
    if not trials:
        raise UserError(f"nothing is recorded in {tracking_uri()}: ggn run SUITE")
    keys = sorted({key for trial in trials for key in trial.facts})
    for condition in _grouped(where, keys).items():
        trials = _meeting(*condition, trials)
    known = sorted({key for trial in trials for key in trial.metrics})
    for name in metrics:
        if name not in known:
            raise UserError(unknown_name("metric", name, known))
    wanted = [_key(key, keys, "--by") for key in by]
    grouping = wanted or [key for key in keys if key not in POOLED]
    chosen = list(metrics) or [key for usual in USUAL for key in known if _is(key, usual)]
    groups: dict[tuple[str, ...], list[_Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.started):
        groups.setdefault(tuple(trial.facts.get(key, "") for key in grouping), []).append(trial)
    # Where nothing else differs, commits stand in the order of their first runs.
    ordered = [key for key in wanted or _by_importance(grouping) if key != "commit"]
    rows = sorted(
        (_row(dict(zip(grouping, values, strict=True)), group, chosen) for values, group in groups.items()),
        key=lambda row: [_sortable(row.facts[key]) for key in ordered],
    )
    return Comparison(rows, wanted or _telling(rows, grouping), chosen)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints one row a group, with the facts that set groups apart."""
    settings = [key for key in comparison.shown if key.startswith("method.") and "method" in comparison.shown]
    columns = [key for key in comparison.shown if key not in settings]
    table = Table(title=f"{tracking_uri()}: medians over runs [95% interval]", title_justify="left")
    for key in columns:
        table.add_column(_words(key), no_wrap=key == "commit", min_width=min(9, len(_words(key))))
    table.add_column("runs", justify="right", min_width=4)
    table.add_column("met target", justify="right", min_width=6)
    for key in comparison.metrics:
        table.add_column(_words(key), justify="right", no_wrap=console.width >= 120)
    previous: list[str] = []
    for row in comparison.rows:
        facts = [row.facts[key] if key != "method" else _method(row, comparison.rows, settings) for key in columns]
        same = [a == b for a, b in zip(facts, previous, strict=False)]
        repeated = same.index(False) if False in same else 0
        if previous and repeated == 0:
            table.add_section()
        table.add_row(
            *("" if position < repeated else fact for position, fact in enumerate(facts)),
            str(row.trials),
            str(row.hits),
            *(interval(value, infinite=_missing(key)) for key, value in row.metrics.items()),
        )
        previous = facts
    console.print(table)


def _words(key: str) -> str:
    return key.split(".")[-1].replace("_", " ")


def _method(row: Row, rows: Sequence[Row], settings: Sequence[str]) -> str:
    """The method with the settings that set its rows apart."""
    namesakes = [other for other in rows if other.facts["method"] == row.facts["method"]]
    told = [f"{_words(key)} {row.facts[key]}" for key in settings if len({other.facts[key] for other in namesakes}) > 1]
    return f"{row.facts['method']} {', '.join(told)}".strip()


def as_records(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows as plain data, with all they were grouped by; what is infinite or unknown is null."""
    return [
        {
            **row.facts,
            "runs": row.trials,
            "met_target": row.hits,
            "metrics": {
                key: {name: number if math.isfinite(number) else None for name, number in value._asdict().items()}
                for key, value in row.metrics.items()
            },
            "run_ids": row.run_ids,
        }
        for row in comparison.rows
    ]


def _trial(run: "Run") -> _Trial:
    tags = run.data.tags
    facts = {key.removeprefix("ggn."): value for key, value in tags.items() if key.startswith(("ggn.", "environment."))}
    facts |= {key: value for key, value in run.data.params.items() if key not in ("method.name", "kind")}
    facts |= {"method": run.data.params.get("method.name", ""), "user": tags.get("mlflow.user", "")}
    for given in run.inputs.dataset_inputs if run.inputs else []:
        facts["data"] = given.dataset.name
        if not given.dataset.digest.startswith("seed-"):  # what is drawn anew for every seed has no common digest
            facts["data_digest"] = given.dataset.digest
    facts["commit"] = _version(facts)
    told = {key: value for key, value in facts.items() if key not in UNTOLD}
    return _Trial(run.info.run_id, run.info.start_time, told, dict(run.data.metrics))


def _is(key: str, usual: str) -> bool:
    """Whether a metric is a usual one, or begins like one that ends with a dot."""
    return key.startswith(usual) if usual.endswith(".") else key == usual


def _version(facts: Mapping[str, str]) -> str:
    """The commit, with the digest of the code where files differed from it or there was no commit."""
    commit, code = facts.get("commit", "None"), facts.get("environment.code", "")[:6]
    if commit == "None":
        return f"code {code}"
    return f"{commit[:8]}+{code}" if facts.get("dirty") == "True" else commit[:8]


def _newest(trials: Iterable[_Trial]) -> list[_Trial]:
    """Without skipped trials and repetitions; the trials come newest first."""
    newest: dict[tuple[str, ...], _Trial] = {}
    for trial in trials:
        if trial.facts["outcome"] != Outcome.SKIPPED:
            keys = ("suite", "reading", "trial", "commit", "environment.cpu", "environment.gpu", "environment.torch")
            newest.setdefault(tuple(trial.facts.get(key, "") for key in keys), trial)
    return list(newest.values())


def _grouped(where: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    conditions: dict[str, list[str]] = {}
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where: give KEY=VALUE, as in method=ggn, found '{condition}'")
        conditions.setdefault(_key(key, keys, "--where"), []).append(value)
    return conditions


def _key(name: str, keys: Sequence[str], option: str) -> str:
    """A key by its name, or by the end of it where that is clear: "width" for "problem.width"."""
    endings = [key for key in keys if key.endswith(f".{name}")]
    if name in keys or len(endings) != 1:
        endings = [name]
    if endings[0] not in keys:
        raise UserError(f"{option}: {unknown_name('key', name, keys)}")
    return endings[0]


def _meeting(key: str, values: Sequence[str], trials: list[_Trial]) -> list[_Trial]:
    met = [trial for trial in trials if any(_equal(key, trial.facts.get(key, ""), value) for value in values)]
    if not met:
        there = sorted({trial.facts.get(key, "") for trial in trials}, key=_sortable)
        raise UserError(f"--where: no run has {key}={' or '.join(values)}; recorded: {', '.join(there)}")
    return met


def _equal(key: str, recorded: str, wanted: str) -> bool:
    """Numbers as numbers, a commit by its beginning, a claim among those that a run serves, all else to the letter."""
    if key == "commit":
        return recorded.startswith(wanted[:8]) and wanted != ""
    if key == "claim":
        return wanted in recorded.split(", ")
    try:
        return float(recorded) == float(wanted)
    except ValueError:
        return recorded == wanted


def _row(facts: dict[str, str], trials: Sequence[_Trial], metrics: Sequence[str]) -> Row:
    return Row(
        facts=facts,
        trials=len(trials),
        hits=sum(trial.metrics.get(CENSORED) == 0 for trial in trials),
        metrics={key: median_interval([v for t in trials if (v := _value(t, key)) is not None]) for key in metrics},
        run_ids=[trial.run_id for trial in trials],
    )


def _value(trial: _Trial, key: str) -> float | None:
    """Infinite where the target was missed or the trial failed; None where there is nothing to know."""
    if key.endswith("_to_target") and trial.metrics.get(CENSORED) == 1:
        return math.inf
    value = trial.metrics.get(key)
    return math.inf if value is None and trial.facts["outcome"] != Outcome.COMPLETED else value


def _missing(key: str) -> str:
    return "missed" if key.endswith("_to_target") else "failed"


def _telling(rows: Sequence[Row], grouping: Sequence[str]) -> list[str]:
    """What sets rows apart, and always method and commit; of settings, those that differ within a method."""
    shown = {"commit"} | ({"method"} if any(row.facts.get("method") for row in rows) else set())
    for key in grouping:
        peers = {row.facts["method"] if key.startswith("method.") else "" for row in rows}
        for peer in peers:
            if len({row.facts[key] for row in rows if peer in ("", row.facts["method"])}) > 1:
                shown.add(key)
    return _by_importance(shown & set(grouping))


def _by_importance(keys: Iterable[str]) -> list[str]:
    """Suite, data and problem first, then the rest of the cell, the method, its settings, the commit, the machine."""

    def rank(key: str) -> tuple[int, str]:
        order = ["suite", "data", "data_digest", "problem.", "", "method", "method.", "commit", "environment."]
        kind = key if key in order else key.split(".")[0] + "." if "." in key else ""
        return (order.index(kind) if kind in order else order.index(""), key)

    return sorted(keys, key=rank)


def _sortable(value: str) -> tuple[float, str]:
    try:
        return (float(value), "")
    except ValueError:
        return (math.inf, value)
