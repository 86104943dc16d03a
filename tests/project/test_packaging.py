"""What is installed, and that the folder mlflow/ shadows nothing."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from asv.util import load_json

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns(".*", "*.egg-info", "build", "mlruns", "reports", "*.db")
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_three_packages_and_their_data(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ggn_core", "harness", "suites"}
    for wanted in (
        "ggn_core/py.typed",
        "ggn_core/rules/linear.py",
        "harness/py.typed",
        "harness/analysis/templates/training.html.j2",
        "harness/analysis/templates/training.md.j2",
        "harness/problems/data/concrete.csv",
        "harness/problems/data/abalone.csv",
        "harness/problems/data/digits.csv.gz",
        "harness/problems/data/README.md",
        "suites/quickstart.yaml",
        "suites/claims/ntk-link.yaml",
        "suites/benchmarks/step.py",
    ):
        assert wanted in names
    packaged = {Path(name).parent.as_posix() for name in names if name.endswith(".py")}
    on_disk = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("ggn_core", "harness", "suites")
        for path in (ROOT / package).rglob("*.py")
    }
    assert packaged == on_disk  # a new folder has to be listed in pyproject.toml


def test_the_folder_mlflow_is_no_package() -> None:
    assert not list((ROOT / "mlflow").rglob("*.py"))
    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    assert ROOT / "mlflow" not in Path(spec.origin).parents


def test_ggn_core_imports_torch_and_nothing_of_the_harness() -> None:
    program = (
        "import sys, ggn_core; "
        "print([m for m in ('harness', 'mlflow', 'yaml', 'pydantic', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_lock_file_serves_pyproject() -> None:
    locked = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    )
    assert locked["torch"] == "2.13.0"
    assert locked["mlflow"] == "3.17.2"
    names = {name.lower().replace("_", "-") for name in locked}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = {
        "peers": (ROOT / "suites" / "peers" / "requirements.txt").read_text().lower(),
        "docs": (ROOT / "docs" / "requirements.txt").read_text().lower(),
    }  # in environments of their own
    for extra, requirements in {"": project["dependencies"], **extras}.items():
        for requirement in requirements:
            name = re.split(r"[\[<>=]", requirement)[0].strip().lower()
            assert name in (pinned.get(extra) or names), f"{name} is not in requirements.lock: make lock"


def test_mlproject_calls_verbs_that_exist() -> None:
    from harness.cli import main

    project = yaml.safe_load((ROOT / "mlflow" / "MLproject").read_text())
    for entry in project["entry_points"].values():
        words = entry["command"].split("&& ggn ")[1].split()
        assert words[0] in main.commands


def test_asv_finds_the_benchmarks() -> None:
    settings = load_json(str(ROOT / "asv.conf.json"), js_comments=True)
    assert (ROOT / settings["benchmark_dir"] / "__init__.py").is_file()
    for key in ("build_command", "install_command"):
        assert "--no-deps" in settings[key][-1]
