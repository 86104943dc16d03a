"""Isolation: whatever happens to a trial's process, it is recorded and the next trial runs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from trials import PROBLEM, make_trial

from harness.engine import LocalEngine
from harness.engine.turns import turn
from harness.errors import UserError
from harness.store import Store
from harness.suite import Limits
from harness.trial import Outcome, StepCostTrial

ENDLESS = {"budget": {"epochs": 10**9}}


def _engine(folder: Path, **limits: float) -> LocalEngine:
    return LocalEngine(Store(folder), Limits.model_validate(limits))


def _children_of_the_server() -> set[int]:
    """Processes that run a trial: those whose parent is the fork server."""
    from multiprocessing import forkserver

    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    children = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == server and fields[0] != "Z":
            children.add(int(status.parent.name))
    return children


def _signal_themake_trial(number: int) -> threading.Thread:
    """Sends a signal to the next trial's process, once it has begun to train."""
    before = _children_of_the_server()

    def strike() -> None:
        for _ in range(200):
            time.sleep(0.05)
            new = _children_of_the_server() - before
            if new:
                time.sleep(0.3)
                for process in new:
                    os.kill(process, number)
                return

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


def test_a_trial_runs_and_its_result_is_stored(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    result = engine.run(make_trial())
    assert result.outcome is Outcome.COMPLETED
    assert engine.store.load(make_trial().id) == result


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks up processes in /proc")
@pytest.mark.parametrize(
    ("number", "outcome", "words"),
    [(signal.SIGKILL, Outcome.KILLED, "SIGKILL"), (signal.SIGSEGV, Outcome.CRASHED, "SIGSEGV")],
)
def test_a_fatal_signal_is_an_outcome(tmp_path: Path, number: int, outcome: Outcome, words: str) -> None:
    engine = _engine(tmp_path, seconds=60)
    engine.run(make_trial())  # starts the server
    thread = _signal_themake_trial(number)
    result = engine.run(make_trial(**ENDLESS))
    thread.join()
    assert result.outcome is outcome
    assert words in result.reason
    assert engine.run(make_trial(seed=1)).outcome is Outcome.COMPLETED


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks up processes in /proc")
def test_the_death_of_the_server_takes_its_trial_and_no_other(tmp_path: Path) -> None:
    from multiprocessing import forkserver

    engine = _engine(tmp_path, seconds=60)
    engine.run(make_trial())
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]

    def strike() -> None:
        _until(lambda: bool(_children_of_the_server()))
        time.sleep(0.3)
        os.kill(server, signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    assert engine.run(make_trial(**ENDLESS)).outcome is Outcome.CRASHED
    thread.join()
    assert engine.run(make_trial(seed=1)).outcome is Outcome.COMPLETED


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks up processes in /proc")
def test_the_process_that_waits_for_the_next_trial_may_be_killed(tmp_path: Path) -> None:
    before = _children_of_the_server() if _engine(tmp_path).run(make_trial()) else set()
    with _engine(tmp_path) as engine:
        for seed in range(1, 4):
            assert engine.run(make_trial(seed=seed)).outcome is Outcome.COMPLETED
            (spare,) = _children_of_the_server() - before
            if seed == 1:
                os.kill(spare, signal.SIGKILL)
                _until(lambda: not _children_of_the_server() - before)
    assert _children_of_the_server() == before


def test_interrupted_while_it_waits_a_spare_process_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C reaches all processes of the terminal."""
    with _engine(tmp_path) as engine:
        engine.run(make_trial())
        (spare,) = engine._spares
        time.sleep(0.5)
        assert spare.process.pid is not None
        os.kill(spare.process.pid, signal.SIGINT)
        assert engine.run(make_trial(seed=1)).outcome is Outcome.COMPLETED
        assert spare not in engine._spares
    assert "Traceback" not in capfd.readouterr().err


PARENT = """\
from pathlib import Path
from trials import make_trial
from harness.engine import LocalEngine
from harness.engine.turns import turn
from harness.store import Store
from harness.suite import Limits

if __name__ == "__main__":
    LocalEngine(Store(Path.cwd()), Limits()).run(make_trial(budget={"epochs": 10**9}))
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks up processes in /proc")
def test_a_trial_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    marked = os.environ | {"PYTHONPATH": paths, "MARK": str(tmp_path)}

    def marked_processes() -> set[int]:
        """The parent, the fork server and its trial."""
        return {int(p.parent.name) for p in Path("/proc").glob("[0-9]*/environ") if _holds(p, f"MARK={tmp_path}")}

    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=marked)
    _until(lambda: len(marked_processes()) >= 4)  # with the server's helper
    parent.kill()
    parent.wait()
    _until(lambda: not marked_processes())


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks up processes in /proc")
def test_a_trial_that_begins_when_nobody_waits_any_more_ends(tmp_path: Path) -> None:
    """The parent dies, and its fork server with it, before the trial's process can ask to be told of that."""
    late = PARENT.replace("if __name__", LATE + "if __name__")
    (tmp_path / "parent.py").write_text(late)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths})
    _until((tmp_path / "child").exists)
    parent.kill()
    parent.wait()
    child = int((tmp_path / "child").read_text())
    _until((tmp_path / "begun").exists)
    _until(lambda: not Path(f"/proc/{child}").exists())


LATE = """
import os, time
from harness.engine import local

def enter(*arguments):
    Path("child.part").write_text(str(os.getpid()))
    os.rename("child.part", "child")
    server = os.getppid()
    from multiprocessing.forkserver import _forkserver
    os.close(_forkserver._forkserver_alive_fd)
    _forkserver._forkserver_alive_fd = None
    while os.getppid() == server:
        time.sleep(0.01)
    Path("begun").touch()
    enter_proper(*arguments)

enter_proper, local._enter = local._enter, enter

"""


def _holds(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes().split(b"\0")
    except OSError:
        return False


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_hang_is_ended(tmp_path: Path) -> None:
    engine = _engine(tmp_path, seconds=2)
    started = time.monotonic()
    result = engine.run(make_trial(**ENDLESS))
    assert result.outcome is Outcome.TIMEOUT
    assert "2 s" in result.reason
    assert time.monotonic() - started < 20
    assert engine.store.load(result.trial.id) == result


def test_running_out_of_memory_is_an_outcome(tmp_path: Path) -> None:
    engine = _engine(tmp_path, memory_gib=0.5)
    large = {"problem": PROBLEM | {"width": 20_000, "depth": 2}}  # 20,000² weights: 1.6 GB
    result = engine.run(make_trial(**large))
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert engine.run(make_trial()).outcome is Outcome.COMPLETED


def test_a_device_that_is_not_there_is_skipped_and_not_stored(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    trial = make_trial(device="cuda:99")
    result = engine.run(trial)
    assert result.outcome is Outcome.SKIPPED
    assert "CUDA" in result.reason
    assert engine.store.load(trial.id) is None


def test_data_that_vanish_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{i},{i}\n" for i in range(100)))
    trial = make_trial(problem={"name": "csv", "path": str(path), "target": "y"})
    path.unlink()
    result = _engine(tmp_path).run(trial)
    assert result.outcome is Outcome.SKIPPED
    assert str(path) in result.reason


def test_a_damaged_result_counts_as_none(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    trial = make_trial()
    result = engine.run(trial)
    path = engine.store.path(trial.id)
    whole = path.read_text()
    for damage in (whole[: len(whole) // 2], "", "{}", "null", whole.replace('"outcome"', '"outcame"')):
        path.write_text(damage)
        assert engine.store.load(trial.id) is None
    path.write_text(whole)
    assert engine.store.load(trial.id) == result


def test_two_runs_of_a_suite_in_one_folder(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    with first.lock("example"):
        with pytest.raises(UserError, match=f"already being run.*process {os.getpid()}"), second.lock("example"):
            pass
        with second.lock("another"):
            pass
    with second.lock("example"):
        pass


STEP_COSTS: dict[str, object] = {
    "problem": PROBLEM, "methods": [{"name": "ggn"}, {"name": "sgd"}], "batch_size": 30, "threads": 1, "seed": 0,
    "rounds": 30,
}  # fmt: skip


def test_several_trials_at_once(tmp_path: Path) -> None:
    engine = LocalEngine(Store(tmp_path), Limits(), jobs=3)
    trials = [make_trial(seed=seed) for seed in range(6)]
    results = {result.trial.id: result for result in engine.run_all(trials)}
    assert set(results) == {trial.id for trial in trials}
    assert {result.environment["at_once"] for result in results.values()} == {3}
    for trial in trials:
        assert results[trial.id] == engine.store.load(trial.id)
        alone = _engine(tmp_path / "alone").run(trial)
        assert alone.curve.train_loss == results[trial.id].curve.train_loss
        assert "at_once" not in alone.environment


def test_leaving_early_ends_what_runs(tmp_path: Path) -> None:
    engine = LocalEngine(Store(tmp_path), Limits(), jobs=2)
    results = engine.run_all([make_trial(), make_trial(seed=1, **ENDLESS), make_trial(seed=2, **ENDLESS)])
    assert next(results).trial == make_trial()
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 20
    assert [path.stem for path in engine.store.trials.iterdir()] == [make_trial().id]


@pytest.fixture
def own_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that no other engine of this machine takes part in."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_trials_that_time_steps_have_the_machine_to_themselves(tmp_path: Path, own_turns: None) -> None:
    engine = LocalEngine(Store(tmp_path), Limits(), jobs=3)
    timed = [StepCostTrial.model_validate(STEP_COSTS | {"seed": seed}) for seed in range(2)]
    results = list(engine.run_all([make_trial(), *timed, make_trial(seed=1), make_trial(seed=2)]))
    spans = {result.trial.id: (result.started, result.started + result.wall_seconds) for result in results}
    for trial in timed:
        begin, end = spans.pop(trial.id)
        assert all(other_end <= begin or end <= other_begin for other_begin, other_end in spans.values())


def test_who_asks_for_it_shares_the_machine(tmp_path: Path, own_turns: None) -> None:
    trial = StepCostTrial.model_validate(STEP_COSTS)
    with turn(alone=False):
        assert LocalEngine(Store(tmp_path), Limits(), share=True).run(trial).outcome is Outcome.COMPLETED
        waiting = threading.Thread(target=_engine(tmp_path / "alone").run, args=(trial,))
        waiting.start()
        waiting.join(timeout=1)
        assert waiting.is_alive()
    waiting.join(timeout=60)
    assert Store(tmp_path / "alone").load(trial.id) is not None


def test_who_waits_to_be_alone_is_not_overtaken(own_turns: None) -> None:
    order: list[str] = []

    def enter(name: str, alone: bool) -> threading.Thread:
        def body() -> None:
            with turn(alone):
                order.append(name)

        thread = threading.Thread(target=body)
        thread.start()
        time.sleep(0.2)
        return thread

    with turn(alone=False):
        together = enter("together", alone=False)
        together.join(timeout=10)
        threads = [enter("alone", alone=True), enter("late", alone=False)]
        assert order == ["together"]
    for thread in threads:
        thread.join(timeout=10)
    assert order == ["together", "alone", "late"]
