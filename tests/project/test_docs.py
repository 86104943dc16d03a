"""What the documents point to exists: files, make's targets, the verbs of ggn, the workflows' commands."""

import re
from pathlib import Path

import click
import pytest
import yaml

from harness.cli import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _code(text: str) -> list[str]:
    """Fenced blocks line by line, and what stands between backticks."""
    lines = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def _options(words: list[str]) -> set[str]:
    return {word.partition("=")[0].strip(".,") for word in words if word.startswith("--")}


def _known_options(words: list[str]) -> set[str]:
    """The options of the verb that a command names, and of all of its verbs where it names a group alone."""
    verb: click.Command = main.commands[words[0]]
    if isinstance(verb, click.Group):
        verbs = [verb.commands[words[1]]] if words[1:] and words[1] in verb.commands else list(verb.commands.values())
    else:
        verbs = [verb]
    return {"--help", *(name for verb in verbs for parameter in verb.params for name in parameter.opts)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_commands_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (document.parent / target.partition("#")[0]).exists(), target
    for line in _code(text):
        for target in re.findall(r"(?:^|\s)make ([a-z-]+)", line):
            assert target in TARGETS, line
        for verb in re.findall(r"(?:^|[\s/])ggn ([a-z]+)\b", line):
            assert verb in main.commands, line
        for command in re.findall(r"(?:^|[\s/])ggn ([a-z][^#|>;]*)", line):
            words = command.split()
            assert _options(words) <= _known_options(words), line


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_exists(workflow: Path) -> None:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        for target in re.findall(r"^make ([a-z-]+)", command, re.MULTILINE):
            assert target in TARGETS, command
        for verb in re.findall(r"\.venv/bin/ggn ([a-z]+)", command):
            assert verb in main.commands, command
        for path in re.findall(r"tests/\S+\.py", command):
            assert (ROOT / path).is_file(), command


def test_the_nightly_workflow_has_the_history_that_asv_and_the_gate_need() -> None:
    for name in ("gate.yml", "nightly.yml"):
        (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"].values()
        (checkout,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
        assert checkout["with"]["fetch-depth"] == 0
