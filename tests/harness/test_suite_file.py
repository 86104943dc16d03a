"""Suite files: what they stand for, and the message for each mistake."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.cli import main
from harness.errors import UserError
from harness.stepcost_suite import StepCostSuite
from harness.suite import Suite
from harness.suite_file import load_suite, shipped_suites
from harness.theory_suite import TheorySuite
from harness.training_suite import TrainingSuite

GOOD = """\
suite: example
problem: {name: concrete, width: [8, 16]}
batch_size: [16, 32]
seeds: 2
target: 0.1
methods: {ggn: {lr: [0.5, 1.0]}, sgd: {}, adam: {}}
"""


def _load_any(folder: Path, text: str) -> Suite:
    path = folder / "suite.yaml"
    path.write_text(text)
    return load_suite(str(path), default_threads=2)


def _load(folder: Path, text: str) -> TrainingSuite:
    suite = _load_any(folder, text)
    assert isinstance(suite, TrainingSuite)
    return suite


def test_lists_are_axes(tmp_path: Path) -> None:
    suite = _load(tmp_path, GOOD)
    cells = [(cell.problem.width, cell.batch_size) for cell in suite.cells()]
    assert cells == [(8, 16), (8, 32), (16, 16), (16, 32)]
    assert [(m.name, m.lr) for m in suite.methods] == [("ggn", 0.5), ("ggn", 1.0), ("sgd", 0.01), ("adam", 0.001)]
    assert suite.seeds == (0, 1)
    assert suite.threads == (2,)
    assert suite.size() == 4 * 4 * 2


@pytest.mark.parametrize("methods", ["[ggn, adam]", "{ggn: , adam: }", "[{name: ggn}, {name: adam}]"])
def test_methods_can_be_written_in_three_ways(tmp_path: Path, methods: str) -> None:
    suite = _load(tmp_path, GOOD.replace("{ggn: {lr: [0.5, 1.0]}, sgd: {}, adam: {}}", methods))
    assert [m.name for m in suite.methods] == ["ggn", "adam"]


def test_all_settings_of_the_optimizer_are_axes(tmp_path: Path) -> None:
    settings = "{momentum: [0, 0.9], search: [null, armijo], max_step_norm: 2, weight_decay: 1e-4, solver: cholesky}"
    ggn = [m for m in _load(tmp_path, GOOD.replace("{lr: [0.5, 1.0]}", settings)).methods if m.name == "ggn"]
    assert [(m.momentum, m.search) for m in ggn] == [(0, None), (0, "armijo"), (0.9, None), (0.9, "armijo")]
    assert {(m.max_step_norm, m.weight_decay, m.solver) for m in ggn} == {(2.0, 1e-4, "cholesky")}


def test_a_table_of_ones_own_is_found_beside_the_suite(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("a,b,y\n1,x,2\n3,y,4\n")
    problem = "{name: csv, path: own.csv, target: y, categorical: [b], width: 8}"
    suite = _load(tmp_path, GOOD.replace("{name: concrete, width: [8, 16]}", problem))
    assert suite.problem[0].path == tmp_path / "own.csv"  # type: ignore[union-attr]
    assert suite.problem[0].categorical == ("b",)  # type: ignore[union-attr]


def test_single_values_and_numbers_stand_where_lists_and_text_may(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("2023,b,2024\n1,x,2\n3,y,4\n")
    problem = "{name: csv, path: own.csv, target: 2024, categorical: b, width: 8}"
    suite = _load(tmp_path, GOOD.replace("{name: concrete, width: [8, 16]}", problem).replace("example", "2024"))
    assert suite.suite == "2024"
    assert suite.problem[0].target == "2024"  # type: ignore[union-attr]
    assert suite.problem[0].categorical == ("b",)  # type: ignore[union-attr]


def test_a_problem_that_fails_has_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, GOOD.replace("[8, 16]", "[0]"))
    assert str(caught.value).count("\n") == 0


def test_tuning_expands_to_candidates_of_equal_number(tmp_path: Path) -> None:
    text = GOOD.replace("{lr: [0.5, 1.0]}", "{}")
    text += "tuning: {seeds: [10], spaces: {ggn: {lr: [1, 2], damping: [3, 4]}, sgd: {lr: [1, 2, 3, 4]}}}\n"
    suite = _load(tmp_path, text)
    ggn, sgd, adam = suite.methods
    assert [(c.lr, c.damping) for c in suite.candidates(ggn)] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert len(suite.candidates(sgd)) == 4
    text = text.replace("lr: [1, 2, 3, 4]", "lr: [1e-4, 1e-3, 1e-2, 1e-1]")  # text to YAML, numbers to us
    searched = _load(tmp_path, text)
    assert [c.lr for c, _ in searched.tuning_trials(searched.cells()[0], sgd)] == [1e-4, 1e-3, 1e-2, 1e-1]
    assert len(suite.candidates(adam)) == 1
    assert suite.size() == 4 * (8 + 3 * 2)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("width", "widht", ["problem 'concrete'", "unknown key 'widht'", "did you mean 'width'"]),
        (
            "concrete",
            "concret",
            [
                "unknown problem 'concret'",
                "mnist_rotation, random_images, rotated_digits, rsna, stereo_disparity",
            ],
        ),
        ("ggn:", "gnn:", ["unknown method 'gnn'", "adam, ggn, sgd"]),
        ("batch_size: [16, 32]", "batch_size: []", ["batch_size", "empty list"]),
        ("width: [8, 16]", "width: []", ["problem.width", "empty list"]),
        ("batch_size: [16, 32]", "batch_size: [0]", ["batch_size.0", "greater than or equal to 1"]),
        ("batch_size: [16, 32]", "batch_size: many", ["batch_size.0", "valid integer"]),
        ("batch_size", "batchsize", ["unknown key 'batchsize'", "did you mean 'batch_size'"]),
        ("target: 0.1\n", "", ["'target' is missing"]),
        ("target: 0.1", "target: -1", ["target", "greater than 0"]),
        ("target: 0.1", "target: .inf", ["target", "finite"]),
        ("seeds: 2", "seeds: 0", ["seeds", "at least 1"]),
        ("seeds: 2", "seeds: []", ["seeds"]),
        ("seeds: 2", "seeds: [-1]", ["seeds"]),
        ("[0.5, 1.0]", "-1", ["ggn.lr", "greater than 0"]),
        ("lr: [0.5, 1.0]", "rate: 1", ["method 'ggn'", "unknown key 'rate'", "damping, lr, max_step_norm"]),
        ("lr: [0.5, 1.0]", "momentum: 1.0", ["ggn.momentum", "less than 1"]),
        ("lr: [0.5, 1.0]", "weight_decay: -1", ["ggn.weight_decay", "greater than or equal to 0"]),
        ("lr: [0.5, 1.0]", "max_step_norm: 0", ["ggn.max_step_norm", "greater than 0"]),
        ("lr: [0.5, 1.0]", "solver: lu", ["ggn.solver", "'auto', 'cholesky' or 'cg'", "'lu'"]),
        ("lr: [0.5, 1.0]", "search: wolfe", ["ggn.search", "'armijo' or 'levenberg_marquardt'", "'wolfe'"]),
        ("lr: [0.5, 1.0]", "damping: 0, search: levenberg_marquardt", ["ggn", "damping, which must be above 0"]),
        ("lr: [0.5, 1.0]", "damping: 0, solver: cg", ["ggn", "needs a damping above 0"]),
        ("sgd: {}", "sgd: {weight_decay: .inf}", ["sgd.weight_decay", "finite"]),
        ("{ggn: {lr: [0.5, 1.0]}, sgd: {}, adam: {}}", "", ["methods", "found nothing"]),
        ("{ggn: {lr: [0.5, 1.0]}, sgd: {}, adam: {}}", "[]", ["methods", "empty list"]),
        ("{ggn: {lr: [0.5, 1.0]}, sgd: {}, adam: {}}", "{ggn: 3}", ["methods.ggn", "a mapping"]),
        ("sgd: {}", "sgd: {name: ggn}", ["methods.sgd", "another name inside", "'ggn'"]),
        ("suite: example", "suite: a b", ["suite", "pattern"]),
        ("suite: example", "suite: x\nsuite: y", ["'suite' stands twice", "line 2"]),
        ("sgd: {}", "sgd: {lr: 1, lr: 2}", ["'lr' stands twice"]),
        ("[16, 32]", "[16, 16]", ["batch_size: stands twice: 16"]),
        ("[8, 16]", "[8, 8]", ["problem: stands twice", "width=8"]),
        ("[0.5, 1.0]", "[1, 1.0]", ["methods: stands twice", "lr=1.0"]),
        ("seeds: 2", "seeds: [3, 3]", ["seeds: stands twice: 3"]),
        ("suite: example", "suite: [}", ["not valid YAML"]),
        ("suite: example", "device: tpu\nsuite: x", ["device", "pattern", "'tpu'"]),
        ("suite: example", "dtype: float16\nsuite: x", ["dtype", "float32"]),
        ("suite: example", "threads: 0\nsuite: x", ["threads", "greater than or equal to 1"]),
        ("suite: example", "budget: {epoch: 3}\nsuite: x", ["budget", "unknown key 'epoch'", "epochs"]),
        ("{name: concrete, width: [8, 16]}", "{name: csv, path: no.csv, target: y}", ["no.csv", "no such file"]),
        ("{name: concrete, width: [8, 16]}", "{name: csv, target: y}", ["path", "missing"]),
        ("{name: concrete, width: [8, 16]}", "{name: csv, path: ., target: y}", ["not a file"]),
        ("{name: concrete, width: [8, 16]}", "7", ["problem", "give a name"]),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        _load(tmp_path, GOOD.replace(old, new))
    assert all(
        word in str(caught.value)
        for word in ["no.csv" if "no.csv" in new else "not a file" if "path: ." in new else "suite.yaml", *words]
    )


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ("{seeds: [0], spaces: {sgd: {lr: 1}}}", ["overlap", "[0]"]),
        ("{seeds: [9], spaces: {momentum: {lr: 1}}}", ["unknown method 'momentum'", "adam, ggn"]),
        ("{seeds: [9], spaces: {sgd: {rate: 1}}}", ["tuning.spaces.sgd", "unknown key 'rate'", "lr, momentum"]),
        ("{seeds: [9], spaces: {sgd: {lr: [1, -1]}}}", ["tuning.spaces.sgd.lr", "greater than 0", "-1"]),
        ("{seeds: [9], spaces: {sgd: {lr: [1, 2]}, adam: {lr: 1}}}", ["same number", "sgd has 2", "adam has 1"]),
        ("{seeds: [9], spaces: {ggn: {lr: [1]}}}", ["'ggn' is searched", "only once"]),
        ("{seeds: [9], spaces: {sgd: {lr: []}}}", ["tuning.spaces.sgd.lr"]),
        ("{seeds: [9], spaces: {sgd: {lr: [1, 1.0]}}}", ["tuning.spaces.sgd: stands twice"]),
        ("{seeds: [9, 9], spaces: {}}", ["tuning.seeds: stands twice: 9"]),
        ("{seed: [9]}", ["tuning", "unknown key 'seed'", "did you mean 'seeds'"]),
    ],
)
def test_mistakes_in_tuning(tmp_path: Path, tuning: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, GOOD + f"tuning: {tuning}\n")
    assert all(word in str(caught.value) for word in ["suite.yaml", *words])


STEP_COSTS = """\
suite: costs
measure: step_cost
problem: {name: concrete, width: [8, 16]}
batch_size: [16, 32]
methods: {ggn: {}, sgd: {}}
"""


def test_a_step_cost_suite(tmp_path: Path) -> None:
    suite = _load_any(tmp_path, STEP_COSTS + "seeds: 2\n")
    assert isinstance(suite, StepCostSuite)
    assert suite.size() == 2 * 2 * 2
    assert [method.name for method in suite.trial(suite.cells()[0], 0).methods] == ["ggn", "sgd"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("step_cost", "stepcost", ["measure", "unknown measure 'stepcost'", "step_cost, theory, training"]),
        ("step_cost", "[step_cost]", ["measure", "unknown measure"]),
        (", sgd: {}", "", ["methods", "at least two"]),
        ("ggn: {}", "ggn: {search: armijo}", ["methods", "'armijo'", "training suite"]),
        ("suite: costs", "suite: costs\ntarget: 0.1", ["unknown key 'target'", "rounds"]),
        ("suite: costs", "suite: costs\nrounds: 5", ["rounds", "greater than or equal to 30"]),
    ],
)
def test_mistakes_in_a_step_cost_suite(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        _load_any(tmp_path, STEP_COSTS.replace(old, new))
    assert all(word in str(caught.value) for word in ["suite.yaml", *words])


def test_unknown_suites() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_suite("quickstrat", 2)
    with pytest.raises(UserError, match="no such file"):
        load_suite("nowhere/suite.yaml", 2)


@pytest.mark.parametrize("text", ["", "3", "- a\n- b\n", "null"])
def test_files_that_are_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="a suite is a mapping"):
        _load(tmp_path, text)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        _load(tmp_path, "suite: !!python/object/apply:os.system ['echo run']\n")


def test_the_list_of_all_there_is_can_be_had_as_json() -> None:
    done = CliRunner().invoke(main, ["list", "--json"])
    assert done.exit_code == 0, done.output
    listed = json.loads(done.output)
    assert "paper/rsna" in listed["suites"]
    assert listed["problems"]["fashion_rotation"]["path"] == "/usr/share/datasets/fashion-mnist"


def test_every_shipped_suite_is_valid() -> None:
    assert "quickstart" in shipped_suites()
    for name in shipped_suites():
        load_suite(name, 2, full=True)
        suite = load_suite(name, 2)
        assert suite.suite == name.replace("/", "_")  # a name is one of a folder, and of an experiment
        assert suite.question


_scalars = st.none() | st.booleans() | st.integers(-3, 200) | st.floats() | st.text(max_size=6)
_values = st.recursive(
    _scalars | st.sampled_from(["concrete", "ggn", "sgd", "csv", "cpu", "float32"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["name", "lr", "width", "seeds", "spaces"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
_keys = st.sampled_from([*TrainingSuite.model_fields, "nonsense"])


_names = st.sampled_from(["math:hypot", "torch.optim:SGD", "harness.cli:main", "no.such:thing", "a:b:c", ":", "this"])
_changed = st.dictionaries(_keys, _values, max_size=5) | st.fixed_dictionaries(
    {"methods": st.lists(_names, min_size=1, max_size=2) | st.dictionaries(_names, _values, min_size=1, max_size=2)},
    optional={"problem": st.fixed_dictionaries({"name": st.just("concrete"), "model": _names | _values})},
)
_files = (
    _changed.map(lambda changes: yaml.safe_dump(yaml.safe_load(GOOD) | changes).encode())
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.binary(max_size=40)
    | st.tuples(
        st.integers(0, len(GOOD)), st.sampled_from([":", "]", "{", "- ", "\n", "\t", "&a *a", "!!x", "\x00"])
    ).map(lambda cut: (GOOD[: cut[0]] + cut[1] + GOOD[cut[0] :]).encode())
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_files)
def test_rubbish_ends_with_exit_code_2_and_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Whatever a suite file holds, it is a valid suite or an error that names the file, never a traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_bytes(content)
    done = CliRunner().invoke(main, ["run", "suite.yaml", "--plan"])
    assert done.exit_code in (0, 2), (content, done.output)
    assert "Traceback" not in done.output
    if done.exit_code == 2:
        assert done.output.startswith("error: ")
        assert "suite.yaml" in done.output


THEORY = """\
suite: small
measure: theory
problem: {name: two_layer, width: [64, 128]}
batch_size: 5
dtype: float64
seeds: 2
methods: {sgd: {}}
"""


def test_a_theory_suite(tmp_path: Path) -> None:
    suite = _load_any(tmp_path, THEORY + "starts: 0.5\n")
    assert isinstance(suite, TheorySuite)
    assert suite.size() == 4
    assert suite.starts == (0.5,)
    assert suite.trial(suite.cells()[1], 1).problem.width == 128


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{name: two_layer, width: [64, 128]}", "concrete", ["problem", "'two_layer'", "'concrete'"]),
        ("dtype: float64", "dtype: float32", ["dtype", "float64 only"]),
        ("batch_size: 5", "batch_size: 7", ["batch_size", "7 does not divide the 20 samples"]),
        ("seeds: 2", "seeds: 2\nstarts: [0]", ["starts", "greater than 0"]),
        ("width: [64, 128]", "width: 64, depth: 2", ["problem", "depth"]),
    ],
)
def test_mistakes_in_a_theory_suite(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        _load_any(tmp_path, THEORY.replace(old, new))
    assert all(word in str(caught.value) for word in ["suite.yaml", *words]), caught.value
