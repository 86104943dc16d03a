"""The site of `make docs`, as far as it can be judged without MkDocs: its navigation, its links, what its pages say."""

import importlib.util
import logging
import pkgutil
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel, TypeAdapter
from tables import tables_of_markdown

from harness.cli import main
from harness.frozen import as_tuple
from harness.methods import METHODS
from harness.problems import PROBLEMS
from harness.problems.base_config import BaseConfig
from harness.problems.image_configs import ImageConfig, ImageFolder
from harness.stepcost_suite import StepCostSuite
from harness.suite import Limits, Suite
from harness.suite_file import load_suite, shipped_suites
from harness.theory_suite import TheorySuite
from harness.training_suite import TrainingSuite, Tuning
from harness.trial import Budget

DOCS = Path(__file__).parents[2] / "docs"
SUITES_PAGE = (DOCS / "suites.md").read_text()


def test_the_navigation_names_every_page_and_no_other() -> None:
    settings = yaml.safe_load((DOCS / "mkdocs" / "mkdocs.yml").read_text())

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for item in (entry.values() if isinstance(entry, dict) else entry) for page in pages(item)]

    named = pages(settings["nav"])
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.fixture
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "mkdocs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_out_of_the_documents_lead_to_pages_that_show_the_file(hooks: ModuleType) -> None:
    text = "[a](../suites/width.yaml) [b](../suites/no.yaml) [c](core.md) [d](../../harness/cli.py#L1) [e](../core.md)"

    def shown(page: str) -> str:
        return hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=page)), None, None)

    assert "[a](repository/suites/width.yaml.md) [b](../suites/no.yaml) [c](core.md)" in shown("index.md")
    assert "[d](../repository/harness/cli.py.md) [e](../core.md)" in shown("reference/harness.md")


@pytest.mark.parametrize(
    ("markup", "fetches"),
    [
        ('<script src="https://example.org/a.js">', True),
        ('<link rel="stylesheet" href="//example.org/a.css">', True),
        ('<img alt="" src="http://example.org/a.png">', True),
        ('<a href="https://example.org">elsewhere</a> <script src="assets/a.js">', False),
    ],
)
def test_a_page_that_fetches_from_elsewhere_fails_the_build(
    hooks: ModuleType, caplog: pytest.LogCaptureFixture, markup: str, fetches: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        hooks.on_post_page(markup, SimpleNamespace(file=SimpleNamespace(src_uri="index.md")), None)
    assert bool(caplog.records) is fetches
    assert all(record.name.startswith("mkdocs.") for record in caplog.records)


def _section(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, without its head."""
    _, _, after = SUITES_PAGE.partition(f"\n{heading}\n")
    assert after, f"suites.md has no heading '{heading}'"
    return tables_of_markdown(re.split(r"\n#+ ", after)[0])[0][1:]


def _own(model: type[BaseModel], *, apart_from: set[str]) -> dict[str, Any]:
    return {key: field for key, field in model.model_fields.items() if key not in apart_from}


BASE = set(Suite.model_fields)
SHARED = set(BaseConfig.model_fields)  # keys of every problem
REDEFINED = {"rotated_digits": {"width"}, "two_layer": {"width", "depth", "activation"}}


def _told_above(name: str, problem: type[BaseModel]) -> set[str]:
    """Keys that a problem has like all others of its kind."""
    kinds = [kind for kind in (ImageConfig, ImageFolder) if issubclass(problem, kind)]
    return (SHARED - REDEFINED.get(name, set())).union({"digest"}, *(kind.model_fields for kind in kinds))


SECTIONS: dict[str, tuple[type[BaseModel], set[str]]] = {
    "## Keys of every suite": (TrainingSuite, set(TrainingSuite.model_fields) - BASE),
    "### limits": (Limits, set()),
    "## Training suites": (TrainingSuite, BASE),
    "### budget": (Budget, set()),
    "### tuning": (Tuning, set()),
    "## Step-cost suites": (StepCostSuite, BASE),
    "## Theory suites": (TheorySuite, BASE),
    "### Keys of every problem": (PROBLEMS["concrete"], {"test_fraction"}),
    "### Keys of every problem of images": (ImageConfig, SHARED - {"width", "depth"}),
    "### Keys of every folder of images": (ImageFolder, set(ImageConfig.model_fields) | {"digest"}),
    **{
        f"### {name}": (model, _told_above(name, model))
        for name, model in PROBLEMS.items()
        if name not in ("afad", "utkface")  # folders of images without a key of their own
    },
    **{f"### {name}": (model, {"name"}) for name, (model, _) in METHODS.items()},
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_has_every_key_of_a_suite_with_its_default_and_bounds(heading: str) -> None:
    model, elsewhere = SECTIONS[heading]
    fields = _own(model, apart_from=elsewhere)
    rows = {row[0]: row for row in _section(heading)}
    assert set(rows) == set(fields)
    schema = model.model_json_schema()["properties"]
    for key, field in fields.items():
        _, meaning, allowed, default = rows[key]
        assert meaning
        if key in ("name", "threads", "limits") or (key, heading) == ("budget", "## Training suites"):
            continue  # what their default is takes words
        if field.is_required():
            assert default.split(";")[0] == "required", key
        else:
            told = TypeAdapter(field.annotation).validate_python(_shaped(yaml.safe_load(default), field.default))
            assert told == field.default, key
        for bound, mark in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("exclusiveMaximum", "<"), ("maximum", "≤")):
            for limit in _all(schema[key], bound):
                assert f"{mark} {limit:g}" in allowed, key
        for names in (*_all(schema[key], "enum"), *([value] for value in _all(schema[key], "const"))):
            if key != "measure":  # of the kind at hand; the page lists all kinds
                assert all(str(name) in allowed for name in names), key
    if heading == "## Keys of every suite":
        assert all(kind in rows["measure"][2] for kind in ("training", "step_cost", "theory"))
        assert set(re.findall(r"\w+", rows["measure"][2])) == {"training", "step_cost", "theory"}


def _shaped(value: Any, default: Any) -> Any:
    """As reading a suite file shapes it: a single value of an axis stands for a list of one."""
    return as_tuple(value) if isinstance(default, tuple) else value


def _all(schema: Any, key: str) -> list[Any]:
    """Every value of a key anywhere in a schema."""
    if isinstance(schema, list):
        return [value for item in schema for value in _all(item, key)]
    if not isinstance(schema, dict):
        return []
    return ([schema[key]] if key in schema else []) + [v for item in schema.values() for v in _all(item, key)]


def test_the_problems_and_methods_that_the_page_names_are_all_there_are() -> None:
    (row,) = [row for row in _section("### Keys of every problem") if row[0] == "name"]
    assert row[2].split(", ") == list(PROBLEMS)


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_example_suite_does_what_the_page_says(workplace: Path) -> None:
    example, narrow = _blocks("suites.md", "yaml")
    (workplace / "sine.yaml").write_text(example)
    (workplace / "narrow.yaml").write_text(narrow)
    suite = load_suite("sine.yaml", 1)
    assert suite.size() == 40
    assert "= 40\ntrials" in SUITES_PAGE
    assert len(suite.cells()) == 2
    assert load_suite("sine.yaml", 1, full=True).seeds == tuple(range(20))
    overlaid = load_suite("narrow.yaml", 1)
    assert [method.name for method in overlaid.methods] == ["ggn", "adam"]
    assert {problem.width for problem in overlaid.problem} == {64}
    done = CliRunner().invoke(main, ["run", "sine.yaml", "--only", "problem.width=16", "--set", "seeds=[0]"])
    assert done.exit_code == 0, done.output
    assert (workplace / "reports" / "sine" / "index.html").is_file()


def test_commands_of_the_page_on_suites_are_understood(workplace: Path) -> None:
    commands = [line.split("#")[0].split() for block in _blocks("suites.md", "sh") for line in block.splitlines()]
    assert len(commands) == 6
    (workplace / "sine.yaml").write_text(_blocks("suites.md", "yaml")[0])
    for command in commands:
        done = CliRunner().invoke(main, [*command[1:], "--plan"])
        assert done.exit_code == 0, done.output


def test_the_training_loop_of_the_first_page_trains() -> None:
    (program,) = _blocks("index.md", "python")
    names: dict[str, Any] = {}
    exec(program, names)
    residuals, targets = (names["model"](names["inputs"]) - names["targets"]).detach(), names["targets"]
    assert residuals.square().mean() < 0.02 * targets.var()


def test_the_first_page_tells_what_quickstart_searches() -> None:
    spaces = yaml.safe_load(shipped_suites()["quickstart"].read_text())["tuning"]["spaces"]["ggn"]
    told = re.sub(r"\s+", " ", (DOCS / "index.md").read_text())
    listed = [", ".join(f"{value:g}" for value in spaces[key]) for key in ("lr", "damping")]
    assert f"searches lr over {listed[0]} and damping over {listed[1]}." in told


def test_everything_that_the_reference_names_is_there() -> None:
    """The site's build finds out as well, later."""
    names = [
        name for page in (DOCS / "reference").glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    ]
    assert len(names) > 10
    for name in names:
        assert pkgutil.resolve_name(re.sub(r"\.(?=\w+$)", ":", name)) is not None
