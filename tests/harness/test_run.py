"""``ggn run`` as a user types it: in a process of its own, recorded in MLflow, resumed after a kill."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli import main
from harness.trial import TrialResult

SUITE = """\
suite: tiny
question: Does it run?
problem: {name: teacher_student, width: [4, 8], samples: 64, test_samples: 32}
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
TRIALS = 2 * 2 * (2 + 2)  # widths × methods × (candidates + seeds)


def ggn(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, timeout=120)


def _runs(folder: Path, uri: str | None = None) -> list:  # type: ignore[type-arg]
    from mlflow import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id], max_results=1000))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    """A folder in which the suite has been run once; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(migrated_database, folder / "mlflow.db")
    (folder / "tiny.yaml").write_text(SUITE)
    previous = Path.cwd()
    os.chdir(folder)
    try:
        done = ggn("run", "tiny.yaml")
    finally:
        os.chdir(previous)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def test_output_ends_with_the_reports_path(finished: Path) -> None:
    last = (finished / "output.txt").read_text().strip().splitlines()[-1]
    page = Path(last.removeprefix("report: "))
    assert page == finished / "reports" / "tiny" / "index.html"
    assert page.is_file()


def test_every_trial_is_a_child_run_with_its_curves_data_and_environment(finished: Path) -> None:
    from mlflow import MlflowClient

    runs = _runs(finished)
    parents = [run for run in runs if run.data.tags["ggn.kind"] == "invocation"]
    children = [run for run in runs if run.data.tags["ggn.kind"] == "training"]
    assert len(parents) == 1
    assert len(children) == TRIALS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert parents[0].data.tags["environment.torch"].startswith("2.")
    assert collections.Counter(run.data.tags["ggn.role"] for run in children) == {"tuning": 8, "evaluation": 8}
    client = MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    for run in children:
        assert run.data.params["problem.name"] == "teacher_student"
        assert run.data.params["method.lr"]
        assert run.data.metrics["final_train_loss"] > 0
        assert run.inputs.dataset_inputs[0].dataset.name == "teacher_student"
        if run.data.tags["ggn.role"] == "evaluation":
            history = client.get_metric_history(run.info.run_id, "train_loss")
            assert [point.step for point in history] == [0, 4, 8, 12]
            seconds = client.get_metric_history(run.info.run_id, "seconds")
            clock = [(point.timestamp - history[0].timestamp) / 1000 for point in history]
            assert clock == pytest.approx([point.value for point in seconds], abs=0.002)
            by_samples = client.get_metric_history(run.info.run_id, "train_loss_by_samples")
            assert [point.step for point in by_samples] == [0, 64, 128, 192]


def test_what_mlflow_shows_is_what_the_trial_measured(copy: Path) -> None:
    from harness.store import Store

    for run in _runs(copy):
        if run.data.tags["ggn.kind"] == "training":
            result = Store(copy).load(run.data.tags["ggn.trial"])
            assert result is not None
            assert run.data.metrics["final_train_loss"] == result.curve.train_loss[-1]
            assert run.data.metrics["best_test_rmse"] == min(result.curve.test_rmse)
            assert run.data.metrics["target_censored"] == (result.at_target(0.5, "epoch") is None)


def test_a_second_run_repeats_nothing(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (copy / ".ggn" / "trials").iterdir()}
    again = ggn("run", "tiny.yaml")
    assert again.returncode == 0
    assert f"{TRIALS} of {TRIALS} trials were there already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (copy / ".ggn" / "trials").iterdir()} == before
    assert sum(run.data.tags["ggn.kind"] == "training" for run in _runs(copy)) == TRIALS


def test_results_come_back_from_mlflow_when_the_files_are_gone(copy: Path) -> None:
    shutil.rmtree(copy / ".ggn")
    again = ggn("run", "tiny.yaml")
    assert f"{TRIALS} of {TRIALS} trials were there already" in again.stdout, again.stdout + again.stderr


def test_results_are_recorded_again_when_the_database_is_new(copy: Path, migrated_database: Path) -> None:
    shutil.copy(migrated_database, copy / "mlflow.db")
    again = ggn("run", "tiny.yaml")
    assert f"{TRIALS} of {TRIALS} trials were there already" in again.stdout
    assert sum(run.data.tags["ggn.kind"] == "training" for run in _runs(copy)) == TRIALS


def test_a_larger_suite_runs_only_what_is_new(copy: Path) -> None:
    (copy / "tiny.yaml").write_text(SUITE.replace("seeds: 2", "seeds: 3"))
    more = ggn("run", "tiny.yaml")
    assert f"{TRIALS} of {TRIALS + 4} trials were there already" in more.stdout


def test_settings_that_the_search_leaves_as_they_were_are_evaluated_once(copy: Path) -> None:
    changes = ("tuning.spaces={ggn: {lr: [1.0]}, sgd: {lr: [0.01]}}", "tuning.defaults=true")
    again = ggn("run", "tiny.yaml", "--again", "all", *(word for change in changes for word in ("--set", change)))
    assert again.returncode == 0, again.stdout + again.stderr
    # Of 2 widths × 2 methods × (1 candidate + 2 tuned + 2 untuned), the untuned ones are the tuned ones.
    assert "8 of 20 trials were there already" in again.stdout
    assert "GGN, default" in (copy / "reports" / "tiny" / "index.html").read_text()


@pytest.mark.slow
def test_results_of_other_code_are_told_and_computed_again_when_asked(copy: Path) -> None:
    trials = sorted((copy / ".ggn" / "trials").glob("*.json"))
    old = [path for path in trials if json.loads(path.read_text())["trial"]["seed"] < 1000][:3]
    for path in old:
        path.write_text(path.read_text().replace('"code":"', '"code":"other'))
    told = ggn("run", "tiny.yaml")
    assert "3 results were computed by other code" in told.stdout
    assert "ggn run tiny.yaml --again outdated" in told.stdout
    mended = ggn("run", "tiny.yaml", "--again", "outdated")
    assert f"{TRIALS - 3} of {TRIALS} trials were there already" in mended.stdout
    assert "other code" not in mended.stdout
    repeated = ggn("run", "tiny.yaml", "--again", "all")
    assert f"0 of {TRIALS} trials were there already" in repeated.stdout
    records = collections.Counter(run.data.tags.get("ggn.trial") for run in _runs(copy))
    assert {records[path.stem] for path in old} == {3}  # whatever was computed is recorded
    assert sum(records[path.stem] for path in trials) == TRIALS * 2 + 3
    shutil.rmtree(copy / ".ggn")
    newest = json.loads(ggn("report", "tiny.yaml", "--json").stdout)  # from MLflow: the newest record counts
    assert newest == json.loads(ggn("report", "tiny.yaml", "--json").stdout)


def test_another_target_reads_the_same_trials_anew(copy: Path) -> None:
    (copy / "tiny.yaml").write_text(SUITE.split("tuning:")[0].replace("target: 0.5", "target: 0.4"))
    read = ggn("run", "tiny.yaml")
    assert read.returncode == 0, read.stderr
    targets = {run.data.tags["ggn.reading"] for run in _runs(copy) if "ggn.reading" in run.data.tags}
    assert targets == {"target 0.4", "target 0.5"}


def test_two_suites_at_once_in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without a database, so that both want to make it
    names = ["first", "second"]
    for name in names:
        text = SUITE.split("tuning:")[0].replace("suite: tiny", f"suite: {name}")
        (tmp_path / f"{name}.yaml").write_text(text.replace("width: [4, 8]", "width: 4"))
    command = [sys.executable, "-m", "harness", "run"]
    running = [
        subprocess.Popen([*command, f"{name}.yaml"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for name in names
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors


def test_one_suite_twice_at_once_runs_every_trial_once(workplace: Path) -> None:
    (workplace / "tiny.yaml").write_text(SUITE.replace("width: [4, 8]", "width: 4"))
    command = [sys.executable, "-m", "harness", "run", "tiny.yaml"]
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = {process.communicate(timeout=120)[1]: process.returncode for process in running}
    assert sorted(errors.values()) == [0, 2], errors
    (refusal,) = [text for text, code in errors.items() if code == 2]
    assert refusal.startswith("error: suite 'tiny' is already being run")
    done = collections.Counter(r.data.tags["ggn.trial"] for r in _runs(workplace) if "ggn.trial" in r.data.tags)
    assert len(done) == TRIALS // 2
    assert set(done.values()) == {1}
    assert "RUNNING" not in {run.info.status for run in _runs(workplace)}
    results = [TrialResult.model_validate_json(path.read_bytes()) for path in Path(".ggn/trials").iterdir()]
    assert {result.trial.id for result in results} == set(done)


def test_the_report_can_be_made_again_without_running_or_a_server(copy: Path) -> None:
    shutil.rmtree(copy / "reports")
    made = ggn("report", "tiny.yaml", "--json", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert made.returncode == 0
    (entry,) = json.loads(made.stdout)
    assert Path(entry["report"]).is_file()
    assert len(entry["rows"]) == 4
    assert all(row["best_test_rmse"]["median"] > 0 for row in entry["rows"])


def test_the_report_has_three_formats(copy: Path) -> None:
    shutil.rmtree(copy / "reports")

    def told(*options: str) -> Result:
        return CliRunner().invoke(main, ["report", "tiny.yaml", *options])

    made = told("--format", "md")
    assert made.exit_code == 0, made.output
    page = copy / "reports" / "tiny" / "report.md"
    assert f"report: {page}" in made.stdout
    assert not page.with_name("index.html").exists()
    assert page.read_text().startswith("# tiny\n\nDoes it run?\n")
    printed = told("--format", "json")
    assert printed.exit_code == 0
    assert printed.stdout == told("--json").stdout
    (record,) = json.loads(printed.stdout)
    assert len(record["candidates"]) == 2 * 2 * 2
    assert {trial["seed"] for row in record["rows"] for trial in row["trials"]} == {0, 1}
    both = told("--json", "--format", "md")
    assert (both.exit_code, both.stderr) == (2, "error: --json and --format md: give one of them\n")
    other = told("--format", "pdf")
    assert other.exit_code == 2
    assert "'json', 'md', 'html'" in other.stderr


def _wait_for(process: "subprocess.Popen[str] | subprocess.Popen[bytes]", trials: Path, count: int) -> None:
    """Until so many trials are finished, or the process has ended, or three minutes have passed."""
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline and len(list(trials.glob("*.json"))) < count:
        time.sleep(0.02)


def _wait_until_gone(mark: str) -> None:
    """Waits for the end of all processes that have this in their environment."""
    end = time.monotonic() + 30
    while found := [path for path in Path("/proc").glob("[0-9]*/environ") if _holds(path, mark)]:
        assert time.monotonic() < end, found
        time.sleep(0.05)


def _holds(path: Path, mark: str) -> bool:
    try:
        return mark.encode() in path.read_bytes().split(b"\0")
    except OSError:
        return False


def test_killed_midway_it_goes_on_where_it_was(workplace: Path) -> None:
    (workplace / "tiny.yaml").write_text(SUITE.replace("seeds: 2", "seeds: 12"))
    process = subprocess.Popen([sys.executable, "-m", "harness", "run", "tiny.yaml"], stdout=subprocess.DEVNULL)
    trials = workplace / ".ggn" / "trials"
    _wait_for(process, trials, 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survivors = {path: path.stat().st_mtime_ns for path in trials.glob("*.json")}
    assert 10 <= len(survivors) < TRIALS + 40
    again = ggn("run", "tiny.yaml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(survivors)} of {TRIALS + 40} trials were there already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in survivors} == survivors
    runs = _runs(workplace)
    assert "RUNNING" not in {run.info.status for run in runs}  # what the kill left open has been closed
    done = collections.Counter(
        run.data.tags["ggn.trial"] for run in runs if run.info.status == "FINISHED" and "ggn.trial" in run.data.tags
    )
    assert len(done) == TRIALS + 40
    assert set(done.values()) == {1}


def test_interrupted_it_closes_its_runs_and_says_how_to_go_on(workplace: Path) -> None:
    (workplace / "tiny.yaml").write_text(SUITE.replace("seeds: 2", "seeds: 200"))
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "tiny.yaml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MARK": str(workplace)},
    )
    trials = workplace / ".ggn" / "trials"
    _wait_for(process, trials, 5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    _wait_until_gone(f"MARK={workplace}")
    assert "RUNNING" not in {run.info.status for run in _runs(workplace)}
    parents = [run for run in _runs(workplace) if run.data.tags["ggn.kind"] == "invocation"]
    assert [run.info.status for run in parents] == ["KILLED"]


def test_a_failed_trial_is_counted_and_changes_the_exit_code(workplace: Path) -> None:
    text = SUITE.replace("budget: {epochs: 3}", "budget: {epochs: 1000000000}").split("tuning:")[0]
    (workplace / "tiny.yaml").write_text(text.replace("width: [4, 8]", "width: 4") + "limits: {seconds: 1}\n")
    done = ggn("run", "tiny.yaml", "--json")
    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)
    assert [row["outcomes"] for row in entry["rows"]] == [{"timeout": 2}, {"timeout": 2}]
    assert {run.info.status for run in _runs(workplace) if run.data.tags["ggn.kind"] == "training"} == {"FAILED"}


def test_a_step_cost_suite_is_run_recorded_and_reported(workplace: Path) -> None:
    text = SUITE.split("seeds:")[0].replace("suite: tiny", "suite: tiny\nmeasure: step_cost").replace("[4, 8]", "4")
    (workplace / "tiny.yaml").write_text(text + "methods: [ggn, sgd]\nrounds: 30\n")
    done = ggn("run", "tiny.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    (row,) = entry["rows"]
    assert row["ratios"]["SGD"]["size"] == 30
    assert Path(entry["report"]).is_file()
    (run,) = [run for run in _runs(workplace) if run.data.tags["ggn.kind"] == "step_cost"]
    assert run.data.metrics["step_seconds.0.ggn"] == pytest.approx(row["milliseconds"]["GGN"] / 1e3)
    assert "1 of 1 trials were there already" in ggn("run", "tiny.yaml").stdout


def test_a_device_that_is_not_there_is_a_skipped_cell(workplace: Path) -> None:
    text = SUITE.split("tuning:")[0].replace("width: [4, 8]", "width: 4") + "device: [cpu, 'cuda:99']\n"
    (workplace / "tiny.yaml").write_text(text)
    for _ in range(2):
        done = ggn("run", "tiny.yaml", "--json")
        assert done.returncode == 0, done.stderr
        (entry,) = json.loads(done.stdout)
        assert [row["outcomes"] for row in entry["rows"]] == [{"completed": 2}] * 2 + [{"skipped": 2}] * 2
        assert "CUDA" in done.stderr
    skipped = [run for run in _runs(workplace) if run.data.tags.get("ggn.outcome") == "skipped"]
    assert len(skipped) == 4  # recorded once, with the reason, however often the suite is run
    assert all("CUDA" in run.data.tags["ggn.reason"] for run in skipped)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quickstrat"], ["did you mean 'quickstart'"]),
        (["run", "none.yaml"], ["none.yaml", "no such file"]),
        (["report", "tiny.yaml"], ["nothing is recorded", "ggn run tiny"]),
        (["run", "large.yaml"], ["batch_size 65", "allowed: 1 to 64"]),
        (["run", "text.yaml"], ["text.csv", "line 3", "'b'"]),
    ],
)
def test_mistakes_end_with_exit_code_2_and_no_traceback(
    workplace: Path, arguments: list[str], words: list[str]
) -> None:
    (workplace / "tiny.yaml").write_text(SUITE)
    (workplace / "large.yaml").write_text(SUITE.replace("batch_size: 16", "batch_size: [16, 65]"))
    (workplace / "text.csv").write_text("a,y\n1,2\nb,3\n4,5\n")
    own = "problem: {name: csv, path: text.csv, target: y}"
    (workplace / "text.yaml").write_text(
        "\n".join(own if line.startswith("problem") else line for line in SUITE.splitlines())
    )
    done = ggn(*arguments)
    assert done.returncode == 2
    assert all(word in done.stderr for word in ["error:", *words])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/none/mlflow.db", "nonsense://x"])
def test_a_tracking_store_that_does_not_answer(workplace: Path, uri: str) -> None:
    (workplace / "tiny.yaml").write_text(SUITE)
    started = time.monotonic()
    done = ggn("run", "tiny.yaml", MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 2
    assert uri in done.stderr
    assert "MLFLOW_TRACKING_URI" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 60
