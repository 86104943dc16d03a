"""Suites changed before they run: --set, --only, extends, only; equal on the command line and in a file."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plan import plan
from harness.store import Store
from harness.suite import Suite
from harness.suite_file import load_suite
from harness.training import train
from harness.training_suite import TrainingSuite
from harness.trial import TrainingTrial

BASE = """\
suite: base
problem: {name: teacher_student, width: [4, 8], samples: 64, test_samples: 32}
batch_size: [16, 32]
seeds: 2
budget: {epochs: 2}
target: 0.1
methods: {ggn: {lr: [0.5, 1.0]}, sgd: {}, adam: {}}
tuning: {seeds: [9], spaces: {sgd: {lr: [0.1, 0.2]}, adam: {lr: [0.1, 0.2]}}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def _load(path: Path, **selection: list[str]) -> TrainingSuite:
    suite = load_suite(str(path), 2, **selection)
    assert isinstance(suite, TrainingSuite)
    return suite


def test_values_are_set_before_the_suite_is_understood(base: Path) -> None:
    changes = ["problem.width=[2, 3]", "seeds=3", "methods.ggn.damping=7", "batch_size=8"]
    suite = _load(base, changes=changes)
    assert [problem.width for problem in suite.problem] == [2, 3]
    assert suite.seeds == (0, 1, 2)
    assert suite.batch_size == (8,)
    assert [method.damping for method in suite.methods if method.name == "ggn"] == [7, 7]
    short = base.with_name("short.yaml")
    short.write_text(BASE.replace("{ggn: {lr: [0.5, 1.0]}, sgd: {}, adam: {}}", "[ggn, sgd, adam]"))
    assert _load(short, changes=["methods.ggn.damping=7"]).methods[0].damping == 7  # type: ignore[union-attr]


def test_a_file_lies_over_the_one_it_extends(base: Path) -> None:
    path = base.with_name("own.yaml")
    path.write_text("extends: base.yaml\nsuite: own\nproblem: {width: 6}\nmethods: {ggn: {lr: 0.3}}\nbatch_size: 8\n")
    suite = _load(path)
    assert suite.suite == "own"
    assert [(problem.width, problem.samples) for problem in suite.problem] == [(6, 64)]  # type: ignore[union-attr]
    assert [(method.name, method.lr) for method in suite.methods] == [("ggn", 0.3), ("sgd", 0.01), ("adam", 0.001)]
    assert suite.batch_size == (8,)
    path.write_text("extends: quickstart\nsuite: own\n")
    assert _load(path).problem[0].name == "concrete"


def test_a_part_is_kept(base: Path) -> None:
    suite = _load(base, only=["method=ggn", "method=sgd", "problem.width=8", "batch_size=16", "seed=1"])
    assert [cell.problem.width for cell in suite.cells()] == [8]
    assert [method.name for method in suite.methods] == ["ggn", "ggn", "sgd"]
    assert suite.seeds == (1,)
    assert suite.tuning is not None
    assert list(suite.tuning.spaces) == ["sgd"]
    assert [m.lr for m in _load(base, only=["method=ggn", "method.lr=0.5"]).methods] == [0.5]
    assert _load(base, only=["method=ggn"]).tuning is None


def test_a_file_says_the_same_as_the_command_line(base: Path) -> None:
    path = base.with_name("own.yaml")
    path.write_text("extends: base.yaml\nonly: {method: [ggn, sgd], problem.width: 8}\nseeds: 3\n")
    typed = _load(base, changes=["seeds=3"], only=["method=ggn", "method=sgd", "problem.width=8"])
    assert _load(path) == typed


def _identities(suite: Suite) -> set[str]:
    assert isinstance(suite, TrainingSuite)
    return {
        suite.trial(cell, method, seed).id for cell in suite.cells() for method in suite.methods for seed in suite.seeds
    }


def test_parts_share_their_trials_with_the_whole(base: Path) -> None:
    assert _identities(_load(base, only=["method=ggn"])) < _identities(_load(base))


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"changes": ["seeds"]}, ["--set seeds", "key=value"]),
        ({"changes": ["=3"]}, ["--set =3", "key=value"]),
        ({"changes": ["problem.width=[3"]}, ["not valid YAML"]),
        ({"changes": ["batch_size.x=3"]}, ["'batch_size' is no mapping"]),
        ({"changes": ["problem.widht=3"]}, ["unknown key 'widht'"]),
        ({"only": ["method"]}, ["--only method", "key=value"]),
        ({"only": ["methods=ggn"]}, ["unknown key 'methods'", "did you mean 'method'"]),
        ({"only": ["method=gnn"]}, ["--only method=gnn", "nothing matches", "ggn, sgd, adam"]),
        ({"only": ["problem.width=5"]}, ["problem.width=5", "4, 8"]),
        ({"only": ["problem.widht=4"]}, ["nothing matches", "none"]),
        ({"only": ["method=sgd", "method.lr=0.5"]}, ["nothing matches"]),
    ],
)
def test_mistakes(base: Path, selection: dict[str, list[str]], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        _load(base, **selection)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: own.yaml\n", ["own.yaml", "circle"]),
        ("extends: nowhere.yaml\n", ["nowhere.yaml", "no such file"]),
        ("extends: [a, b]\n", ["extends", "one suite"]),
        ("extends: base.yaml\nonly: ggn\n", ["only", "mapping"]),
        ("extends: base.yaml\ntarget: {teacher: 1}\n", ["target", "'teacher_student' has none"]),
        ("extends: base.yaml\ntarget: {teacher_student: 1, x: 2}\n", ["target", "unknown problem 'x'"]),
        ("extends: base.yaml\ntarget: {teacher_student: -1}\n", ["target", "greater than 0"]),
    ],
)
def test_mistakes_in_a_file(base: Path, text: str, words: list[str]) -> None:
    path = base.with_name("own.yaml")
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        _load(path)
    assert all(word in str(caught.value) for word in words)


def test_each_problem_has_its_target(base: Path) -> None:
    path = base.with_name("own.yaml")
    path.write_text("extends: base.yaml\nproblem: [concrete, abalone]\ntarget: {concrete: 0.05, abalone: 0.4}\n")
    suite = _load(path)
    assert [suite.target_of(problem) for problem in suite.problem] == [0.05, 0.4]
    assert _load(path, only=["problem=abalone"]).target == {"abalone": 0.4}


def test_a_plan_knows_what_is_done(base: Path) -> None:
    suite, store = _load(base, only=["problem.width=4"]), Store(base.parent)
    assert (plan(suite, store).total, plan(suite, store).done, plan(suite, store).seconds_left) == (24, 0, None)
    trial = plan(suite, store).trials[0][0]
    assert isinstance(trial, TrainingTrial)
    result = train(trial)
    store.save(result)
    assert plan(suite, store).done == 1
    assert plan(suite, store).seconds_left == pytest.approx(23 * result.wall_seconds)
    assert len(plan(suite, store).trials) == 2 * (2 * 2 + 4)  # what is searched is evaluated once the search is done


def test_the_long_version_is_laid_over_and_is_not_inherited(base: Path) -> None:
    path = base.parent / "own.yaml"
    path.write_text("extends: base.yaml\nsuite: own\nfull: {seeds: 7, problem: {width: 9}}\n")
    short, long = (load_suite(str(path), 1, full=full) for full in (False, True))
    assert len(short.seeds) != 7
    assert len(long.seeds) == 7
    assert {problem.width for problem in long.problem} == {9}
    above = base.parent / "above.yaml"
    above.write_text("extends: own.yaml\nsuite: above\n")
    assert load_suite(str(above), 1, full=True).seeds == short.seeds
    path.write_text("extends: base.yaml\nfull: 3\n")
    with pytest.raises(UserError, match="full: a mapping"):
        load_suite(str(path), 1)
