"""``ggn check``: a good method passes, and each check catches the fault that it is there for."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import contract, plugins
from harness.contract import METHOD_CHECKS, MODEL_CHECKS, Finding, check_own_code, code_to_check
from harness.errors import UserError

GOOD = """\
import contextlib, gc, os, random, signal, time
import numpy as np
import torch
from torch import nn

PREPARE = SHARED = None

class Method:
    def __init__(self, model, lr=0.1):
        self.model, self.lr, self.steps = model, lr, 0
        # made

    def step(self, inputs, targets):
        # before
        self.model.zero_grad()
        nn.functional.mse_loss(self.model(inputs), targets).backward()
        with torch.no_grad():
            for p in self.model.parameters():
                p -= self.lr * p.grad
        self.steps += 1
        # after

def model(inputs, outputs, seed=0, generator=None):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("checked", None)
    sys.path[:] = [entry for entry in sys.path if entry not in plugins._added]
    plugins._added.clear()


def _write(folder: Path, *edits: tuple[str, str]) -> None:
    text = GOOD
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "checked.py").write_text(text)


@pytest.mark.parametrize("name", ["Method", "model"])
def test_what_is_good_passes_every_check(folder: Path, name: str) -> None:
    _write(folder)
    code, _ = code_to_check(f"checked:{name}", [])
    checks = METHOD_CHECKS if name == "Method" else MODEL_CHECKS
    for check in checks.values():
        check(code)


FAULTS = [
    ("# made", "model[0].weight.data.zero_()", "is made", "changed before any step"),
    ("self.model.parameters():", "self.model[0].parameters():", "steps change every", "4 steps leave.*2.weight"),
    ("lr=0.1", "lr=1e30", "steps change every", "not finite"),
    ("p -= self.lr", "p += self.lr", "the loss falls", "went from .* is the sign right"),
    ("# before", "inputs, targets = inputs.view(32, 4), targets", "batches of", "invalid for input of size 4"),
    ("# before", "float(targets[0])", "several outputs", "only one element"),
    ("# after", "self.model.float()", "float64", "parameters are torch.float32"),
    ("# before", "inputs = inputs.float()", "float64", "must have the same dtype"),
    ("self.lr * p.grad", "self.lr * p.grad * (1 + time.perf_counter_ns() % 1000)", "equal seeds", "differ by"),
    ("self.steps += 1", "global SHARED; SHARED, self.lr = self, self.lr / (1 if SHARED is self else 2)", "instances",
     "a second instance"),
    ("# before", "torch.manual_seed(3)", "global random state", "random state of torch"),
    ("# made", "np.random.seed(3)", "global random state", "random state of numpy"),
    ("# before", "torch.set_num_threads(torch.get_num_threads() + 1)", "global settings", "get_num_threads"),
    ("# made", "signal.signal(signal.SIGINT, signal.SIG_DFL)", "global settings", "SIGINT"),
    ("# after", "self.model.eval()", "training mode", "evaluation mode"),
    ("# after", "self.model[0].weight.requires_grad_(False)", "training mode", "no longer require.*0.weight"),
    ("# after", "self.model[0].register_forward_hook(lambda *_: None)", "no hooks", "0._forward_hooks"),
    ("# after", "self.model[0].weight.register_hook(lambda g: g)", "no hooks", "0.weight._backward_hooks"),
    ("# made", "self.model.register_forward_hook(lambda *_: setattr(self, 'lr', self.lr * 0.9))", "evaluation",
     "evaluating the model between steps"),
    ("self.model.zero_grad()", "self.model.zero_grad()\n        if inputs.shape[1] != 4: return", "an error",
     "raises nothing"),
    ("# before", "self.model[2].bias.data += 0.1", "an error", "a step that raised has changed"),
    ("# before", "self.lr *= 0.9", "an error", "not what it would have been"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "check", "words"), FAULTS)
def test_each_fault_of_a_method_is_found(folder: Path, old: str, new: str, check: str, words: str) -> None:
    import signal

    import torch

    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    _write(folder, (old, new))
    code, _ = code_to_check("checked:Method", [])
    (name,) = [name for name in METHOD_CHECKS if check in name]
    try:
        with pytest.raises(Exception, match=words):
            METHOD_CHECKS[name](code)
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    ("old", "new", "check", "words"),
    [
        ("outputs)", "1)", "right shape", r"\(1, 7\) give \(1, 1\), \(1, 3\) is needed"),
        ("return", "torch.manual_seed(5); return", "the seed", "different seeds have equal weights"),
        ("return", "torch.manual_seed(time.perf_counter_ns()); return", "the seed", "one seed have different"),
        ("nn.Tanh()", "nn.Dropout(0.5)", "equal outputs", "dropout"),
        ("nn.Tanh()", "nn.BatchNorm1d(8)", "act on each other", "batch normalization"),
    ],
)
def test_each_fault_of_a_model_is_found(folder: Path, old: str, new: str, check: str, words: str) -> None:
    head, mark, tail = GOOD.partition("def model")
    (folder / "checked.py").write_text(head + mark + tail.replace(old, new))
    code, group = code_to_check("checked:model", [])
    assert group == plugins.MODELS
    (name,) = [name for name in MODEL_CHECKS if check in name]
    with pytest.raises(contract._WrongError, match=words):
        MODEL_CHECKS[name](code)


def test_parameters_that_do_nothing_are_found(folder: Path) -> None:
    (folder / "checked.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, inputs, outputs):\n"
        "        super().__init__()\n"
        "        self.used, self.idle = nn.Linear(inputs, outputs), nn.Linear(2, 2)\n"
        "    def forward(self, x):\n"
        "        return self.used(x)\n"
    )
    code, _ = code_to_check("checked:Net", [])
    with pytest.raises(contract._WrongError, match=r"do not act on the output: idle.weight, idle.bias"):
        contract._trains(code)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("os._exit(3)", "exit code 3"), ("os.kill(os.getpid(), 9)", "SIGKILL"), ("time.sleep(99)", "not done within 6 s")],
)
def test_what_ends_the_process_is_a_finding(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    monkeypatch.setattr(contract, "SECONDS", 6 if "sleep" in fault else 60)
    _write(folder, ("# before", fault))
    *passed, last = check_own_code(*code_to_check("checked:Method", []))
    assert last.check == "steps change every parameter"
    assert reason in last.reason
    assert passed == [Finding("is made for a model, and leaves it alone", "")]


def test_the_verb(folder: Path) -> None:
    _write(folder, ("p -= self.lr", "p += self.lr"), ("# made", "print('noise')"))

    def ggn(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)

    done = ggn("checked:Method", "--set", "lr=0.05", "--json")
    assert done.returncode == 1, done.stderr
    findings = json.loads(done.stdout)
    assert [finding["check"] for finding in findings if finding["reason"]] == ["the loss falls on an easy problem"]
    done = ggn("checked:Mehtod")
    assert (done.returncode, "did you mean 'Method'" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_mistakes_on_the_command_line(folder: Path) -> None:
    _write(folder, ("lr=0.1", "lr"))
    with pytest.raises(UserError, match="needs a value for lr: --set lr="):
        code_to_check("checked:Method", [])
    with pytest.raises(UserError, match="unknown setting 'rate'"):
        code_to_check("checked:Method", ["rate=1"])
    with pytest.raises(UserError, match="unknown method 'adamm'"):
        code_to_check("adamm", [])
