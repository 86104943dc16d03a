"""The team's tracking server: what mlflow/ configures, exercised against a real PostgreSQL."""

import configparser
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner, Result
from tracked import SUITE, SUITE_FILE, make_result, mlflow_server, runs, trials_of

from harness.cli import main
from harness.store import Store
from harness.sweep import EVALUATION
from harness.sync import sync
from harness.tracking import Tracker, TrackingError

FOLDER = Path(__file__).parents[2] / "mlflow"
PG_ISREADY = shutil.which("pg_isready") or ""
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
TRIALS = len(trials_of(SUITE))


def _example() -> dict[str, str]:
    """The variables of env.example."""
    lines = (FOLDER / "env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def _variables() -> dict[str, str]:
    """What compose.yaml asks of the environment file: variable → what follows its name, such as ":?message"."""
    return dict(re.findall(r"\$\{(\w+)(.*?)\}", (FOLDER / "compose.yaml").read_text()))


def test_the_server_is_published_on_loopback_only() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:${MLFLOW_PORT:-5000}:5000"]


def test_what_the_services_refer_to_is_there() -> None:
    """The parts of compose.yaml fit together: what one names, another declares, or lies in this folder."""
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    mounted = [volume for service in services.values() for volume in service.get("volumes", [])]
    sources = {volume.split(":")[0] for volume in mounted}
    assert {source for source in sources if not source.startswith(".")} == set(volumes)
    assert all((FOLDER / source).is_file() for source in sources if source.startswith("."))
    for service in services.values():
        assert ("build" in service) != ("image" in service)
        assert service["healthcheck"]["test"][0] == "CMD"
        assert all(needed in services for needed in service.get("depends_on", {}))
    build = services["mlflow"]["build"]
    root = (FOLDER / build["context"]).resolve()
    assert (root / build["dockerfile"]) == FOLDER / "Dockerfile"
    instructions = (FOLDER / "Dockerfile").read_text().splitlines()
    assert all((root / line.split()[1]).is_file() for line in instructions if line.startswith("COPY"))
    kept = "/var/lib/postgresql/data", services["mlflow"]["command"][-1].split("=")[1]
    assert {volume.split(":")[1] for volume in mounted if volume.split(":")[0] in volumes} == set(kept)
    accounts = configparser.ConfigParser()
    accounts.read(FOLDER / "basic_auth.ini")
    assert accounts["mlflow"]["database_uri"] in " ".join(services["mlflow"]["command"])
    environment = services["mlflow"]["environment"]
    assert f"./basic_auth.ini:{environment['MLFLOW_AUTH_CONFIG_PATH']}:ro" in mounted
    database = services["database"]["environment"]
    assert (environment["PGHOST"], environment["PGUSER"]) == ("database", database["POSTGRES_USER"])
    assert environment["PGPASSWORD"] == database["POSTGRES_PASSWORD"]


def _health(service: str, **changes: str) -> int:
    """The exit code of a service's health check, with words of it replaced; its programs are those of this machine."""
    _, program, *command = COMPOSE["services"][service]["healthcheck"]["test"]
    found = {"python": sys.executable, "pg_isready": PG_ISREADY}[program]
    for old, new in changes.items():
        assert any(old in word for word in command)
        command = [word.replace(old, new) for word in command]
    return subprocess.run([found, *command], capture_output=True, check=False, timeout=30).returncode


def test_the_health_check_fails_where_nothing_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert _health("mlflow", **{":5000": f":{closed.getsockname()[1]}"}) == 1


def test_secrets_are_asked_for_and_not_committed() -> None:
    example, variables = _example(), _variables()
    assert example.keys() == variables.keys()
    for name in example:
        if name != "MLFLOW_PORT":
            assert example[name] == ""
            assert variables[name].startswith(":?")
    for path in FOLDER.iterdir():
        assert "password =" not in path.read_text()
    assert "/mlflow/.env" in (FOLDER.parent / ".gitignore").read_text().splitlines()


def test_the_image_has_what_the_lock_file_pins() -> None:
    lines = (FOLDER.parent / "requirements.lock").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines}
    (command,) = re.findall(r"pip install .*?\.lock(.*?) \\\n", (FOLDER / "Dockerfile").read_text())
    wanted = [word.strip('"').split("[")[0].lower() for word in command.split()]
    assert wanted == ["mlflow", "psycopg", "flask-wtf"]
    assert set(wanted) <= pinned


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a new, empty database."""
    server = os.environ.get("GGN_TEST_POSTGRES")
    if not server:
        pytest.skip(
            "no PostgreSQL: GGN_TEST_POSTGRES is not set; `make test-postgres` starts one where it is installed"
        )
    import psycopg

    name = f"ggn_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield server.rsplit("/", 1)[0] + f"/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def ggn(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.postgres
def test_runs_in_a_database_of_the_teams(postgres: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    (workplace / "small.yaml").write_text(SUITE_FILE)
    done = ggn("run", "small.yaml", "--json")
    assert done.exit_code == 0, done.output
    password = urlsplit(postgres).password or ""
    assert password
    assert password not in done.output + Path(json.loads(done.stdout)[0]["report"]).read_text()
    assert {run.info.status for run in runs()} == {"FINISHED"}
    assert len(runs()) == TRIALS + 1
    assert ggn("sync").stdout == f"small: 0 recorded, {TRIALS} were there, 0 not on disk\n"
    rows = json.loads(ggn("compare", "small", "--json").stdout)
    assert [(row["method"], row["runs"]) for row in rows] == [("ggn", 2), ("sgd", 2)]


@pytest.mark.postgres
def test_a_database_that_goes_away_midway(postgres: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    suite = SUITE.model_copy(update={"suite": "away"})
    tracker, store = Tracker(suite), Store(workplace)
    tracker.begin()
    first, *others = [make_result(trial) for trial in trials_of(suite)]
    for result in (first, *others):
        store.save(result)
    tracker.record(first, EVALUATION)
    name = postgres.rsplit("/", 1)[1]
    with psycopg.connect(os.environ["GGN_TEST_POSTGRES"], autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        with pytest.raises(TrackingError, match="tracking store failed"):
            tracker.record(others[0], EVALUATION)
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert sync(suite, store, tracker, workplace / "none")[:2] == (len(others), 1)
    whole = [run.data.tags["ggn.trial"] for run in runs("away") if run.info.status == "FINISHED" and run.data.params]
    assert sorted(whole) == sorted(trial.id for trial in trials_of(suite))


@pytest.fixture(scope="module")
def team(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The server as compose.yaml starts it, in front of the test's database; its address, and admin's password."""
    folder = tmp_path_factory.mktemp("team")
    given = {name: secrets.token_hex(16) for name in _example()}
    service = COMPOSE["services"]["mlflow"]
    variables = {key: _filled(value, given) for key, value in service["environment"].items()}
    address = urlsplit(postgres)
    variables |= {
        "PGHOST": str(address.hostname),
        "PGPORT": str(address.port),
        "PGUSER": str(address.username),
        "PGPASSWORD": str(address.password),
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
    }
    database = address.path.removeprefix("/")
    accounts = (FOLDER / "basic_auth.ini").read_text()
    (folder / "basic_auth.ini").write_text(accounts.replace("postgresql:///mlflow", f"postgresql:///{database}"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={port}",
        "--backend-store-uri=postgresql:///mlflow": f"--backend-store-uri=postgresql:///{database}",
        "--artifacts-destination=/artifacts": f"--artifacts-destination={folder / 'artifacts'}",
    }
    program, *command = service["command"]
    assert program == "mlflow"
    assert here.keys() <= set(command)
    command = [here.get(word, word) for word in command]
    with mlflow_server([*command, "--workers=1"], port, folder / "log", **variables) as uri:
        yield uri, given["MLFLOW_ADMIN_PASSWORD"]


@pytest.mark.postgres
def test_the_health_checks_tell_a_server_that_answers(
    team: tuple[str, str], postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = team
    assert _health("mlflow", **{"http://127.0.0.1:5000": uri}) == 0
    if not PG_ISREADY:
        pytest.skip("no pg_isready here to ask PostgreSQL with")
    for port, answers in ((urlsplit(postgres).port, True), (urlsplit(uri).port, False)):
        monkeypatch.setenv("PGPORT", str(port))
        assert (_health("database") == 0) == answers


def _filled(value: Any, given: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+).*?\}", lambda match: given[match[1]], str(value))


@pytest.mark.postgres
def test_who_has_no_account_is_turned_away(
    team: tuple[str, str], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, _ = team
    (workplace / "small.yaml").write_text(SUITE_FILE)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for verb in (["run", "small.yaml"], ["compare"]):
        for password in (None, "wrong"):
            if password is not None:
                monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
                monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
            done = ggn(*verb)
            assert done.exit_code == 2, done.output
            assert f"error: the tracking store {uri} refuses" in done.stderr
            assert "MLFLOW_TRACKING_USERNAME" in done.stderr


@pytest.mark.postgres
def test_colleagues_record_in_one_experiment(
    team: tuple[str, str], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.server import get_app_client

    uri, password = team
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    accounts = get_app_client("basic-auth", tracking_uri=uri)
    for place, name in enumerate(("ada", "emmy")):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        accounts.create_user(name, f"{name} has a long password")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{name} has a long password")
        folder = workplace / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / "shared.yaml").write_text(SUITE_FILE.replace("suite: small", "suite: shared"))
        done = ggn("run", "shared.yaml")
        assert done.exit_code == 0, done.output
        assert f"{TRIALS * place} of {TRIALS} trials were there already" in done.stdout  # the second finds the first's
        assert "on disk only" not in done.stdout
    parents = [run for run in runs("shared") if run.data.tags["ggn.kind"] == "invocation"]
    assert len(parents) == 2
    assert len(runs("shared")) == TRIALS + 2
    from mlflow import MlflowClient

    for run in parents:
        assert "report/index.html" in [file.path for file in MlflowClient().list_artifacts(run.info.run_id, "report")]
