"""The Dask engine on a real cluster of two worker processes: the same results, and deaths survived."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trials import make_trial

from harness.engine import LocalEngine
from harness.engine.dask import DaskEngine, run_on_worker
from harness.errors import UserError
from harness.store import Store
from harness.suite import Limits
from harness.trial import Outcome, TrialResult

distributed = pytest.importorskip("distributed", reason="pip install 'gram-gauss-newton[dask]'")
psutil = pytest.importorskip("psutil", reason="comes with distributed")

ENDLESS = {"budget": {"epochs": 10**9}}

SUITE = """\
suite: tiny
problem: {name: teacher_student, width: 4, samples: 64, test_samples: 32}
batch_size: 16
threads: 1
seeds: 2
budget: {epochs: 3}
target: 0.5
methods: [ggn, sgd]
tuning:
  seeds: [1000]
  budget: {epochs: 2}
  spaces: {ggn: {lr: [0.5, 1.0]}, sgd: {lr: [0.01, 0.1]}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0",
                                 silence_logs="CRITICAL") as cluster,
    ):  # fmt: skip
        yield cluster


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def engine(cluster: Any, tmp_path: Path, told: list[str]) -> Iterator[DaskEngine]:
    limits = Limits(seconds=8)
    with DaskEngine(Store(tmp_path), limits, cluster.scheduler_address, 1, False, told.append) as engine:
        yield engine


def _ggn(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=240)


def _until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def _pid(cluster: Any, address: str) -> int:
    (pid,) = [nanny.pid for nanny in cluster.workers.values() if nanny.worker_address == address]
    return int(pid)


def _trials_of(pid: int) -> list[Any]:
    """The processes below a worker's: its fork server, the server's helper, and trials."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def test_a_suite_has_the_results_of_the_local_engine(cluster: Any, workplace: Path) -> None:
    (workplace / "tiny.yaml").write_text(SUITE)
    done = _ggn("run", "tiny.yaml", "--json", "--scheduler", cluster.scheduler_address)
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = json.loads(done.stdout)
    assert [row["outcomes"] for row in entry["rows"]] == [{"completed": 2}] * 2
    files = list((workplace / ".ggn" / "trials").iterdir())
    assert len(files) == 8
    local = LocalEngine(Store(workplace / "local"), Limits())
    for path in files:
        remote = TrialResult.model_validate_json(path.read_text())
        result = local.run(remote.trial)
        assert result.outcome is remote.outcome is Outcome.COMPLETED
        for column in ("step", "samples", "epoch", "train_loss", "test_rmse"):
            assert getattr(result.curve, column) == getattr(remote.curve, column)
        assert remote.environment.keys() - result.environment.keys() == {"host"}


def test_trained_models_come_back_with_their_results(engine: DaskEngine, tmp_path: Path) -> None:
    wanted, other = make_trial(), make_trial(seed=1)
    engine.store.model_path(other.id).write_bytes(b"of an earlier result")
    results = list(engine.run_all([wanted, other], {wanted.id}))
    assert {result.outcome for result in results} == {Outcome.COMPLETED}
    assert [path.stem for path in engine.store.trials.glob("*.pt")] == [wanted.id]
    local = Store(tmp_path / "local")
    LocalEngine(local, Limits()).run(wanted, keep_model=True)
    there, here = (torch.load(store.model_path(wanted.id), weights_only=True) for store in (engine.store, local))
    assert there.keys() == here.keys()
    assert all(torch.equal(there[key], here[key]) for key in there)


def test_the_trial_of_a_killed_worker_runs_again_elsewhere(cluster: Any, engine: DaskEngine, told: list[str]) -> None:
    trial = make_trial(**ENDLESS)
    results: list[TrialResult] = []
    thread = threading.Thread(target=lambda: results.extend(engine.run_all([trial, make_trial(seed=1)])))
    thread.start()
    (first,) = _until(lambda: engine._workers.get(trial.id))
    pid = _pid(cluster, first)
    below = _until(lambda: len(_trials_of(pid)) >= 2 and _trials_of(pid))
    os.kill(pid, signal.SIGKILL)
    thread.join(timeout=120)
    assert {result.trial.id: result.outcome for result in results} == {
        trial.id: Outcome.TIMEOUT,  # what becomes of it on the second worker
        make_trial(seed=1).id: Outcome.COMPLETED,
    }
    (message,) = told
    assert f"worker {first} died" in message
    assert trial.id in message
    _until(lambda: not any(process.is_running() and process.status() != "zombie" for process in below))


def test_a_trial_whose_workers_die_again_and_again_is_killed(cluster: Any, engine: DaskEngine) -> None:
    trial = make_trial(seed=2, **ENDLESS)
    results: list[TrialResult] = []
    thread = threading.Thread(target=lambda: results.extend(engine.run_all([trial])))
    thread.start()
    for deaths in (1, 2):
        workers = _until(lambda deaths=deaths: len(w := engine._workers.get(trial.id, [])) == deaths and w)
        os.kill(_pid(cluster, workers[-1]), signal.SIGKILL)
    thread.join(timeout=120)
    (result,) = results
    assert result.outcome is Outcome.KILLED
    assert "its Dask worker died, 2 times over" in result.reason
    assert all(worker in result.reason for worker in engine._workers[trial.id])
    assert engine.store.load(trial.id) == result
    (after,) = engine.run_all([make_trial(seed=3)])
    assert after.outcome is Outcome.COMPLETED


PARENT = """\
import sys
from pathlib import Path
from trials import make_trial
from harness.engine import LocalEngine
from harness.engine.dask import DaskEngine
from harness.store import Store
from harness.suite import Limits

if __name__ == "__main__":
    with DaskEngine(Store(Path.cwd()), Limits(seconds=600), sys.argv[1], 1, False, print) as engine:
        list(engine.run_all([make_trial(seed=4, budget={"epochs": 10**9})]))
"""


def test_the_trials_of_a_killed_parent_end(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    command = [sys.executable, str(tmp_path / "parent.py"), cluster.scheduler_address]

    def trials() -> list[Any]:
        """Servers stay; they have no children of their own once their trials have ended."""
        below = [process for nanny in cluster.workers.values() for process in _trials_of(nanny.pid)]
        found = []
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended while we looked
                if process.ppid() in {other.pid for other in below}:
                    found.append(process)
        return found

    _until(lambda: not trials())
    parent = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths})
    _until(trials)
    parent.kill()
    parent.wait()
    _until(lambda: not trials(), seconds=30)


def test_workers_with_other_code_are_refused(cluster: Any) -> None:
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        future = client.submit(
            run_on_worker, make_trial().model_dump_json(), "{}", False, (), {"code": "another"}, "topic"
        )
        with pytest.raises(UserError, match="has other code or another torch"):
            future.result()


def test_addresses_without_a_scheduler(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from harness.engine import dask

    monkeypatch.setattr(dask, "CONNECT_SECONDS", 2.0)
    worker = next(iter(cluster.workers.values())).worker_address
    for address, words in (
        ("tcp://127.0.0.1:9", "no Dask scheduler answers there"),
        ("nonsense://1:2", "no Dask scheduler answers there"),
        (worker, "what answers there is no Dask scheduler"),
    ):
        with pytest.raises(UserError, match=f"--scheduler {address}: {words}"):
            DaskEngine(Store(tmp_path), Limits(), address, 1, False, print).__enter__()
    gc.collect()
    assert capfd.readouterr().err == ""


def test_a_scheduler_that_goes_away(tmp_path: Path) -> None:
    with distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL"
    ) as cluster:
        told: list[str] = []
        with DaskEngine(Store(tmp_path), Limits(), cluster.scheduler_address, 1, False, told.append) as engine:
            assert told == ["the cluster has no workers yet; waiting for the first"]
            results = engine.run_all([make_trial()])
            threading.Timer(1, cluster.close).start()
            with pytest.raises(UserError, match="has gone; finished trials are kept"):
                next(results)
