"""Faults of a sweep's surroundings, each with the real thing: servers that fail, Ctrl-C, a full disk."""

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console
from tracked import SUITE, SUITE_FILE, mlflow_server, runs, trials_of, wait_until
from trials import PROBLEM, make_trial

from harness import runner
from harness.cli import main
from harness.engine import LocalEngine
from harness.progress import Reporter
from harness.runner import Runner
from harness.store import Store
from harness.studies import study
from harness.suite import Limits
from harness.sync import sync
from harness.tracking import Tracker
from harness.trial import Outcome, TrialResult

TRIALS = len(trials_of(SUITE))


class Proxy(ThreadingHTTPServer):
    """Stands between ``ggn`` and a tracking server, and fails in the way and from the moment that a test asks for.

    Attributes:
        fault: "" to pass requests on; "500" to answer so; "refuse" to hang up; "hang" to leave requests unanswered;
            "slow" to pass them on after a while.
        trigger: A word in a request's path, and how many such requests pass before the fault begins.
        struck: Set once the fault has met a request.
    """

    daemon_threads = True

    def __init__(self, target: str):
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = target.removeprefix("http://")
        self.fault = ""
        self.trigger = ("", 0)
        self.struck = threading.Event()
        self.mended = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, fault: str, word: str, passing: int) -> None:
        self.trigger = (word, passing)
        self.fault = fault

    def mend(self) -> None:
        self.fault = ""
        self.mended.set()

    def strikes(self, path: str) -> bool:
        word, passing = self.trigger
        if self.fault and not self.struck.is_set() and word in path:
            self.trigger = (word, passing - 1)
            if passing == 0:
                self.struck.set()
        return bool(self.fault) and self.struck.is_set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what the tests provoke: nothing to print."""


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _answer(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.strikes(self.path):
            if self.server.fault == "slow":
                time.sleep(0.05)
            else:
                self._fail()
                return
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        connection.request(self.command, self.path, content, dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self) -> None:
        self.close_connection = True
        if self.server.fault == "hang":
            self.server.mended.wait(120)
        elif self.server.fault == "500":
            self.send_error(500)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815  http.server's names

    def log_message(self, *arguments: object) -> None:
        """Requests are not logged."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated_database, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["server", "--port", str(port), "--workers", "1", "--artifacts-destination", str(folder / "artifacts")]
    with mlflow_server([*command, "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"], port, folder / "log") as uri:
        yield uri


@pytest.fixture
def proxy(server: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """In front of the server, which ``ggn`` is told of; the server's old runs are put away."""
    from mlflow import MlflowClient

    client = MlflowClient(server)
    old = client.get_experiment_by_name(SUITE.suite)
    if old is not None:
        client.rename_experiment(old.experiment_id, workplace.name)
    with Proxy(server) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        yield proxy
        proxy.mend()
        proxy.shutdown()
        thread.join()


def _runner(folder: Path, tracker: Tracker, log_models: bool = False) -> tuple[Runner, Console]:
    console = Console(record=True, width=400, file=(folder / "console").open("w"))
    reporter = Reporter(SUITE.size(), console)
    return Runner(SUITE, Store(folder), tracker, reporter, log_models=log_models), console


def _recorded(uri: str | None = None) -> list[str]:
    """The trials that have a whole run, as often as they have one."""
    closed = [run for run in runs(uri=uri) if run.info.status == "FINISHED"]
    return [run.data.tags["ggn.trial"] for run in closed if run.data.tags["ggn.kind"] == "training"]


def _assert_all_recorded_once() -> None:
    """Each trial has one whole run; what was broken off is closed, and nothing runs."""
    assert sorted(_recorded()) == sorted(trial.id for trial in trials_of(SUITE))
    assert "RUNNING" not in {run.info.status for run in runs()}
    reader = Tracker(SUITE)
    assert all(reader.load(trial.id) is not None for trial in trials_of(SUITE))


@pytest.mark.parametrize("fault", ["500", "refuse", "hang"])
def test_a_server_that_fails_midway_loses_nothing(
    fault: str, proxy: Proxy, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(SUITE)
    runner, console = _runner(workplace, tracker)
    keep = Runner._keep

    def break_then_keep(self: Runner, result: TrialResult, role: str) -> None:
        if len(list(runner.store.trials.iterdir())) == 2:  # at the second trial, in the middle of its recording
            proxy.fail(fault, "mlflow-artifacts", 0)
            if fault == "hang":
                monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
                monkeypatch.setenv("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "1")
        keep(self, result, role)

    monkeypatch.setattr(Runner, "_keep", break_then_keep)
    found = study(SUITE)
    runner.run(found.walk)
    assert proxy.struck.is_set()
    assert len(found.results()) == TRIALS
    assert len(runner.waiting) == TRIALS - 1
    told = console.export_text()
    assert told.count("results wait on disk") == 1
    assert proxy.address in told
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    proxy.mend()
    assert sync(SUITE, runner.store, Tracker(SUITE), workplace / "none") == (TRIALS - 1, 1, 0)
    tracker.end("FAILED")  # what the run itself could not close any more
    _assert_all_recorded_once()


def test_a_slow_server_is_waited_for(proxy: Proxy, workplace: Path) -> None:
    tracker = Tracker(SUITE)
    running, console = _runner(workplace, tracker)
    proxy.fail("slow", "log-batch", 0)
    running.run(study(SUITE).walk)
    assert proxy.struck.is_set()
    assert not running.waiting
    assert "failed" not in console.export_text()
    _assert_all_recorded_once()


def test_models_wait_for_a_server_that_fails_midway(proxy: Proxy, workplace: Path) -> None:
    from mlflow import MlflowClient

    running, _ = _runner(workplace, Tracker(SUITE), log_models=True)
    proxy.fail("500", ".pt", 1)  # the second trial's, after its metrics have been taken
    running.run(study(SUITE).walk)
    assert proxy.struck.is_set()
    assert not running.without_model
    on_disk = {path.stem for path in running.store.trials.glob("*.pt")}
    assert on_disk == {trial.id for trial in trials_of(SUITE)} - set(_recorded(f"http://{proxy.target}"))
    assert len(on_disk) == TRIALS - 1
    proxy.mend()
    assert sync(SUITE, running.store, Tracker(SUITE), workplace / "none") == (TRIALS - 1, 1, 0)
    assert not list(running.store.trials.glob("*.pt"))
    for run in runs():
        if run.info.status == "FINISHED" and run.data.tags["ggn.kind"] == "training":
            listed = [file.path for file in MlflowClient().list_artifacts(run.info.run_id, "model")]
            assert listed == [run.data.tags["ggn.model"]] == [f"model/{run.data.tags['ggn.trial']}.pt"]
    assert len(_recorded()) == TRIALS


def test_claims_wait_for_a_server_that_fails(proxy: Proxy, workplace: Path) -> None:
    _runner(workplace, Tracker(SUITE))[0].run(study(SUITE).walk)
    proxy.fail("500", "set-tag", 1)
    serving, console = _runner(workplace, Tracker(SUITE, ["faster"]))
    serving.run(study(SUITE).walk)
    assert proxy.struck.is_set()
    assert serving.reporter.reused == TRIALS
    assert console.export_text().count("runs recorded before lack the claims they serve now") == 1
    proxy.mend()

    def tagged() -> int:
        return sum(r.data.tags.get("ggn.claim") == "faster" for r in runs() if r.data.tags["ggn.kind"] == "training")

    assert tagged() == 1
    _runner(workplace, Tracker(SUITE, ["faster"]))[0].run(study(SUITE).walk)
    assert tagged() == TRIALS


@pytest.mark.parametrize(("patience", "back_after"), [(0.0, TRIALS - 1), (60.0, TRIALS)])
def test_a_server_that_comes_back_during_the_run_gets_everything(
    patience: float, back_after: int, proxy: Proxy, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RETRY_SECONDS", patience)
    running, console = _runner(workplace, Tracker(SUITE))
    keep = Runner._keep

    def fail_in_between(self: Runner, result: TrialResult, role: str) -> None:
        finished = len(list(running.store.trials.iterdir()))
        if finished == 1:
            proxy.fail("500", "runs/create", 0)
        elif finished == back_after:
            proxy.mend()
        keep(self, result, role)

    monkeypatch.setattr(Runner, "_keep", fail_in_between)
    running.run(study(SUITE).walk)
    assert proxy.struck.is_set()
    assert not running.waiting
    assert console.export_text().count("results wait on disk") == 1
    _assert_all_recorded_once()


def test_results_that_only_a_failing_server_holds_are_run_anew(proxy: Proxy, workplace: Path, tmp_path: Path) -> None:
    first, _ = _runner(workplace, Tracker(SUITE))
    first.run(study(SUITE).walk)
    (tmp_path / "elsewhere").mkdir()
    second, console = _runner(tmp_path / "elsewhere", Tracker(SUITE))
    proxy.fail("500", "trial.json", 2)  # looked up and loaded: one result comes, then none
    found = study(SUITE)
    second.run(found.walk)
    assert proxy.struck.is_set()
    assert len(found.results()) == TRIALS
    assert second.reporter.reused == 1
    assert "run anew" in console.export_text()


def test_interrupted_while_recording_nothing_is_left_running(proxy: Proxy, workplace: Path) -> None:
    (workplace / "small.yaml").write_text(SUITE_FILE)
    proxy.fail("hang", "log-batch", 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "small.yaml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert proxy.struck.wait(120)
    proxy.fault = ""  # this one request stays unanswered, those after it pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    proxy.mend()
    assert process.returncode == 130, errors
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    statuses = [(run.data.tags["ggn.kind"], run.info.status) for run in runs()]
    assert sorted(statuses) == [("invocation", "KILLED"), ("training", "FINISHED"), ("training", "KILLED")]


def test_sync_as_a_user_types_it(proxy: Proxy, workplace: Path) -> None:
    (workplace / "small.yaml").write_text(SUITE_FILE)
    proxy.fail("refuse", "log-batch", 1)
    ran = CliRunner().invoke(main, ["run", "small.yaml"])
    assert ran.exit_code == 0, ran.output
    assert f"{TRIALS - 1} results are on disk only: ggn sync records them" in ran.stdout
    assert ran.stdout.splitlines()[-1].startswith("report: ")
    away = CliRunner().invoke(main, ["sync"])
    assert away.exit_code == 2
    assert away.stderr.startswith(f"error: the tracking store {proxy.address} does not answer")
    proxy.mend()
    synced = CliRunner().invoke(main, ["sync", "--json"])
    assert json.loads(synced.stdout) == [{"suite": "small", "recorded": TRIALS - 1, "held": 1, "missing": 0}]
    again = CliRunner().invoke(main, ["sync", "small.yaml"])
    assert again.stdout == f"small: 0 recorded, {TRIALS} were there, 0 not on disk\n", again.output
    _assert_all_recorded_once()


def test_a_disk_without_room_for_a_model_keeps_the_result(small_disk: Path) -> None:
    wide = make_trial(problem=PROBLEM | {"width": 3000}, method={"name": "sgd"}, budget={"epochs": 1})  # 36 MB
    engine = LocalEngine(Store(small_disk), Limits())
    result = engine.run(wide, keep_model=True)
    assert result.outcome is Outcome.COMPLETED, result.reason
    assert [path.name for path in engine.store.trials.iterdir()] == [f"{wide.id}.json"]


def test_a_full_disk_stops_the_run_and_loses_nothing(
    small_disk: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_disk)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated_database, small_disk / "mlflow.db")
    (small_disk / "small.yaml").write_text(SUITE_FILE.replace("seeds: 2", "seeds: 500"))
    ballast = small_disk / "ballast"
    ballast.touch()
    command = [sys.executable, "-m", "harness", "run", "small.yaml"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    trials = small_disk / ".ggn" / "trials"
    wait_until(lambda: process.poll() is not None or len(list(trials.glob("*.json"))) >= 3, 120)
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "make room, then type the same command again" in " ".join(errors.split())
    assert "Traceback" not in errors
    ballast.unlink()
    finished = {path: path.read_text() for path in trials.glob("*.json")}
    assert all(TrialResult.model_validate_json(text) for text in finished.values())
    (small_disk / "small.yaml").write_text(SUITE_FILE)
    again = CliRunner().invoke(main, ["run", "small.yaml"])
    assert again.exit_code == 0, again.output
    store = f"sqlite:///{small_disk}/mlflow.db"
    assert "RUNNING" not in {run.info.status for run in runs(uri=store)}
    assert set(_recorded(store)) >= {trial.id for trial in trials_of(SUITE)}
