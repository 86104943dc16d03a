"""The user's own methods and models: how they are found, what is refused, and what makes a new trial."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import plugins
from harness.analysis.labels import Labels
from harness.errors import UserError
from harness.methods import make_method
from harness.plugins import OwnCode
from harness.problems import make_problem
from harness.studies import study
from harness.suite import Suite
from harness.suite_file import load_suite
from harness.sweep import check
from harness.training import train
from harness.trial import Outcome, TrainingTrial, TrialResult

OWN = """\
import torch
from torch import nn
from own_helper import RATE

class Descent:
    def __init__(self, model, lr=RATE, *, decay: float = 0.0, betas=(0.9, 0.99), kind="plain"):
        self.model, self.lr, self.kind = model, lr, kind

    def step(self, inputs, targets):
        self.model.zero_grad()
        nn.functional.mse_loss(self.model(inputs), targets).backward()
        with torch.no_grad():
            for p in self.model.parameters():
                p -= self.lr * p.grad

def sgd(params, lr):
    return torch.optim.SGD(params, lr=lr)

def thing(model):
    return 3

def refuses(model, lr=-1.0):
    raise ValueError("lr must be positive")

def net(inputs, outputs, seed, generator, hidden=4):
    layer = nn.Linear(inputs, hidden)
    layer.seed, layer.drawn = seed, torch.rand(1, generator=generator)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(hidden, outputs))

def wide(inputs, outputs):
    return nn.Linear(inputs, outputs + 1)

def empty(inputs, outputs):
    return nn.Identity()

def named(model, name="x"):
    return None

nothing = None
"""

SUITE = """\
suite: own
problem: {name: teacher_student, samples: 64, test_samples: 16, width: 8}
batch_size: 16
threads: 1
seeds: 1
budget: {epochs: 2}
target: 0.1
methods: METHODS
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module ``own``, which imports ``own_helper``; forgotten by this process afterwards."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own_helper.py").write_text("RATE = 0.1\n")
    before = set(sys.modules)
    yield tmp_path
    _forget(before)


def _forget(before: set[str]) -> None:
    for name in set(sys.modules) - before:
        if name.partition(".")[0].startswith("own"):
            del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if entry not in plugins._added]
    plugins._added.clear()


def _suite(folder: Path, methods: str, problem: str | None = None) -> Suite:
    text = SUITE.replace("METHODS", methods)
    if problem is not None:
        text = "\n".join(problem if line.startswith("problem") else line for line in text.splitlines())
    (folder / "suite.yaml").write_text(text)
    return load_suite(str(folder / "suite.yaml"), 1)


def _trials(suite: Suite) -> list[TrainingTrial]:
    found: list[TrainingTrial] = []
    study(suite).walk(lambda trial, role: found.append(trial))  # type: ignore[arg-type, func-returns-value]
    return found


def test_a_method_trains_as_the_same_method_written_here_does(folder: Path) -> None:
    own, optimizer, builtin = _trials(
        _suite(folder, "{own:Descent: {lr: 0.05}, own:sgd: {lr: 0.05}, sgd: {lr: 0.05, momentum: 0}}")
    )
    curves = [train(trial).curve for trial in (own, optimizer, builtin)]
    assert len(curves[0].train_loss) == 3
    assert curves[0].train_loss == pytest.approx(curves[2].train_loss, rel=1e-5)
    assert curves[1].train_loss == pytest.approx(curves[2].train_loss, rel=1e-5)


def test_an_optimizer_that_asks_for_a_closure_gets_one(folder: Path) -> None:
    (trial,) = _trials(_suite(folder, "{torch.optim:LBFGS: {max_iter: 3, lr: 0.5}}"))
    problem = make_problem(trial.problem, 0)
    ours, theirs = problem.model(), problem.model()
    method = make_method(ours, trial.method)
    optimizer = torch.optim.LBFGS(theirs.parameters(), max_iter=3, lr=0.5)
    inputs, targets = problem.train.all()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(theirs(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(2):
        method.step(inputs, targets)
        optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_settings_are_axes_and_become_the_numbers_that_are_asked_for(folder: Path) -> None:
    suite = _suite(folder, "{own:Descent: {lr: [1e-3, 1], decay: 2, betas: [[0.8, 1e-1]], kind: 1e3}}")
    settings = [method.settings for method in suite.methods]
    assert settings == [
        {"lr": 0.001, "decay": 2.0, "betas": (0.8, 0.1), "kind": "1e3"},
        {"lr": 1, "decay": 2.0, "betas": (0.8, 0.1), "kind": "1e3"},
    ]
    assert type(settings[0]["decay"]) is float
    assert _trials(suite)[0].title.startswith("Descent lr=0.001 decay=2 betas=[0.8, 0.1] kind=1e3 on")


def test_settings_are_searched(folder: Path) -> None:
    text = "{own:sgd: {}, adam: {}}\ntuning: {seeds: [9], spaces: {own:sgd: {lr: [1e-2, 1e-1]}, adam: {lr: [1, 2]}}}"
    suite = _suite(folder, text)
    assert [candidate.settings for candidate in suite.candidates(suite.methods[0])] == [{"lr": 0.01}, {"lr": 0.1}]
    assert len(_trials(suite)) == 4
    with pytest.raises(UserError, match=r"suite.yaml: 'own:sgd': unknown setting 'rate'; allowed: lr"):
        _suite(folder, text.replace("own:sgd: {lr: [1e-2", "own:sgd: {rate: [1e-2"))


def test_the_command_line_reaches_own_code(folder: Path) -> None:
    (folder / "own_sub").mkdir()
    (folder / "own_sub" / "steps.py").write_text(
        "import torch\ndef sgd(params, lr=1.0): return torch.optim.SGD(params, lr)\n"
    )
    _suite(folder, "[own_sub.steps:sgd, adam]", "problem: {name: concrete, model: {name: own:net, hidden: [3, 5]}}")

    def load(changes: list[str], only: list[str]) -> Suite:
        return load_suite(str(folder / "suite.yaml"), 1, changes, only)

    for name in ("sgd", "own_sub.steps:sgd"):
        (method,) = load(["methods.own_sub.steps:sgd.lr=[0.1, 0.2]"], [f"method={name}", "method.lr=0.2"]).methods
        assert method.settings == {"lr": 0.2}
    suite = load(["methods.own:sgd.lr=3", "problem.model.hidden=[5, 6]"], ["problem.model.hidden=6"])
    assert [method.label for method in suite.methods] == ["sgd", "adam", "sgd"]
    assert [problem.title for problem in suite.problem] == ["concrete, net hidden=6"]
    assert "own:sgd" in Labels(suite).method(suite.methods[2])  # two methods of one name are told apart


def test_a_trial_survives_being_written_down(folder: Path) -> None:
    (trial,) = _trials(
        _suite(folder, "{own:Descent: {betas: [[0.8, 0.1]]}}", "problem: {name: concrete, model: own:net}")
    )
    result = TrialResult(trial=trial, outcome=Outcome.COMPLETED)
    read = TrialResult.model_validate_json(result.model_dump_json())
    assert read == result
    assert read.trial.id == trial.id


def test_edited_code_makes_new_trials_and_moved_code_does_not(folder: Path, tmp_path: Path) -> None:
    def identity() -> str:
        before = set(sys.modules)
        (trial,) = _trials(_suite(folder, "[own:Descent]"))
        _forget(before)
        return trial.id

    first = identity()
    assert identity() == first
    (folder / "unrelated.py").write_text("x = 1\n")
    assert identity() == first
    (folder / "own_helper.py").write_text("RATE = 0.2\n")  # imported by the module
    second = identity()
    (folder / "own.py").write_text(OWN + "# edited\n")
    third = identity()
    assert len({first, second, third}) == 3
    (folder / "own.py").write_text(OWN)
    (folder / "own_helper.py").write_text("RATE = 0.1\n")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("own.py", "own_helper.py"):
        (folder / name).rename(moved / name)
    folder = moved
    assert identity() == first


def test_another_version_of_an_installed_package_makes_new_trials(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import plugin_source

    (folder / "own.py").write_text(OWN + "import yaml\n")
    digests = set()
    for number in ("6.0", "7.0"):
        monkeypatch.setattr(plugin_source, "_version", lambda top, number=number: f"{top} {number}")
        digests.add(plugins.find("own:Descent", plugins.METHODS, [folder]).digest)
    assert len(digests) == 2
    assert plugin_source.installed_imports("own:Descent") == ["yaml"]


def test_code_that_changes_after_the_suite_was_read_is_not_run(folder: Path) -> None:
    (trial,) = _trials(_suite(folder, "[own:Descent]"))
    (folder / "own_helper.py").write_text("RATE = 0.3\n")
    with pytest.raises(UserError, match=r"'own:Descent': the source.*has changed since the suite was read"):
        train(trial)


def test_a_model_of_ones_own(folder: Path) -> None:
    problem = "problem: {name: concrete, model: [{name: own:net, hidden: [3, 5]}, own:net]}"
    suite = _suite(folder, "[ggn]", problem)
    check(suite)
    trials = _trials(suite)
    assert len({trial.id for trial in trials}) == 3
    assert [trial.title.split(" on ")[1] for trial in trials] == [
        f"concrete, net{options}, batch 16, seed 0" for options in (" hidden=3", " hidden=5", "")
    ]
    assert "problem.width" not in trials[0].flat()
    made = [make_problem(trials[0].problem, seed).model() for seed in (0, 0, 1)]
    assert isinstance(made[0], nn.Sequential)
    assert made[0][0].out_features == 3
    assert torch.equal(made[0][0].weight, made[1][0].weight)
    assert made[0][0].drawn == made[1][0].drawn
    assert not torch.equal(made[0][0].weight, made[2][0].weight)
    assert made[0][0].seed != made[2][0].seed
    assert train(trials[0]).outcome is Outcome.COMPLETED


def test_without_its_search_a_method_needs_its_settings(folder: Path) -> None:
    search = "{seeds: [9], spaces: {own:sgd: {lr: [1e-2, 1e-1]}}}"
    assert _suite(folder, f"{{own:sgd: {{}}}}\ntuning: {search}").size() == 2 + 1
    with pytest.raises(UserError, match=r"'own:sgd': needs a value for lr under methods.*tuning\.defaults"):
        _suite(folder, f"{{own:sgd: {{}}}}\ntuning: {search.replace('spaces', 'defaults: true, spaces')}")


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("[nowhere:f]", ["'nowhere:f'", "no module 'nowhere' in"]),
        ("[own.sub:f]", ["'own.sub:f'", "no module 'own.sub'", "own.py"]),
        ("[own:Decent]", ["unknown attribute 'Decent'", "did you mean 'Descent'", "own.py"]),
        ("['own:']", ["give package.module:attribute"]),
        ("['own:a b']", ["give package.module:attribute"]),
        ("[own:nothing]", ["a NoneType, not something to call"]),
        ("[own:net]", ["takes (inputs, outputs, seed, generator, hidden=4)", "expected factory(model"]),
        ("[math:hypot]", ["'math:hypot'", "expected factory(model"]),
        ("{own:Descent: {rate: 1}}", ["unknown setting 'rate'", "betas, decay, kind, lr"]),
        ("{own:thing: {rate: 1}}", ["takes no settings, found 'rate'"]),
        ("{own:sgd: {}}", ["needs a value for lr"]),
        ("{own:sgd: {lr: .inf}}", ["lr: must be finite"]),
        ("{own:sgd: {lr: {a: 1}}}", ["lr: give a number", "found dict"]),
        ("{own:sgd: {lr: []}}", ["own:sgd.lr", "empty list"]),
        ("[own:named]", ["a setting cannot be called 'name'"]),
        ("[own_broken:f]", ["importing 'own_broken' failed: ZeroDivisionError", "own_broken.py, line 2"]),
        ("[own_leaves:f]", ["importing 'own_leaves' failed: SystemExit: 3"]),
        ("[own_needs:f]", ["importing 'own_needs' failed: ModuleNotFoundError", "not_installed"]),
        ("[own:sgd, own:sgd]", ["needs a value"]),
        ("[own:Descent, own:Descent]", ["methods: stands twice"]),
    ],
)
def test_mistakes(folder: Path, methods: str, words: list[str]) -> None:
    (folder / "own_broken.py").write_text("x = 1\nx / 0\n")
    (folder / "own_leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "own_needs.py").write_text("import not_installed\n")
    with pytest.raises(UserError) as caught:
        _suite(folder, methods)
    assert all(word in str(caught.value) for word in ["suite.yaml", *words]), str(caught.value)


@pytest.mark.parametrize(
    ("methods", "model", "words"),
    [
        ("[own:thing]", "own:net", ["'own:thing': made a int without step", "expected factory(model"]),
        ("[own:refuses]", "own:net", ["'own:refuses'", "ValueError: lr must be positive"]),
        ("{own:sgd: {lr: -1}}", "own:net", ["'own:sgd'", "{'lr': -1}", "Invalid learning rate"]),
        ("[ggn]", "own:wide", ["'own:wide': gives outputs of shape (2, 2), (2, 1) is needed"]),
        ("[ggn]", "own:empty", ["no parameters to train"]),
        ("[ggn]", "{name: own:net, hidden: x}", ["'own:net'", "{'hidden': 'x'}", "TypeError"]),
    ],
)
def test_mistakes_that_show_when_the_code_is_tried(folder: Path, methods: str, model: str, words: list[str]) -> None:
    suite = _suite(folder, methods, f"problem: {{name: concrete, model: {model}}}")
    with pytest.raises(UserError) as caught:
        check(suite)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_built_in_models_keys_do_not_go_with_a_model(folder: Path) -> None:
    with pytest.raises(UserError, match="width, depth, activation are the built-in model's"):
        _suite(folder, "[ggn]", "problem: {name: concrete, model: own:net, width: 3}")


def test_two_modules_of_one_name_are_not_mixed_up(folder: Path, tmp_path: Path) -> None:
    _suite(folder, "[own:Descent]")
    other = tmp_path / "other"
    other.mkdir()
    (other / "own.py").write_text(OWN)
    with pytest.raises(UserError, match="there are two modules 'own'"):
        plugins.find("own:Descent", plugins.METHODS, [other])


def test_code_that_a_package_has_registered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "own_package-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[ggn.methods]\ndescent = own:Descent\n[ggn.models]\nsmall = own:net\n")
    monkeypatch.syspath_prepend(str(folder))
    assert importlib.metadata.version("own-package") == "1.0"
    suite = _suite(folder, "{descent: {lr: 0.5}}", "problem: {name: concrete, model: small}")
    (trial,) = _trials(suite)
    assert isinstance(trial.method, OwnCode)
    assert trial.method.plugin.path == "own:Descent"
    assert trial.title.startswith("descent lr=0.5 on concrete, small")
    with pytest.raises(UserError, match=r"unknown method 'decent'.*did you mean 'descent'"):
        _suite(folder, "[decent]")
    with pytest.raises(UserError, match=r"unknown model 'smal'.*small"):
        _suite(folder, "[ggn]", "problem: {name: concrete, model: smal}")


def test_a_suite_with_own_code_is_run_and_reported(workplace: Path) -> None:
    """As a user would: from another folder than the suite's, then after an edit."""
    folder = workplace / "there"
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    (folder / "own_helper.py").write_text("RATE = 0.1\n")
    text = SUITE.replace("METHODS", "{ggn: {}, own:Descent: {lr: [0.1, 0.2]}}").replace("width: 8", "model: own:net")
    (folder / "suite.yaml").write_text(text)

    def run(*options: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "harness", "run", "there/suite.yaml", "--json", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        (entry,) = json.loads(done.stdout)
        assert isinstance(entry, dict)
        return entry

    entry = run()
    assert [row["outcomes"] for row in entry["rows"]] == [{"completed": 1}] * 3
    assert "Descent lr 0.1" in Path(entry["report"]).read_text()
    assert run("--plan")["done"] == 3
    (folder / "own.py").write_text(OWN.replace("p -= self.lr", "p -= 2 * self.lr"))
    assert run("--plan")["done"] == 0  # the model comes from the same file
