"""Problems: splits, scales and seeds."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.problems import make_problem
from harness.problems.configs import Abalone, Concrete, CsvTable, RotatedDigits, TeacherStudent
from harness.problems.rotation import digits, turned
from harness.problems.tables import read_table


@pytest.mark.parametrize("config", [Concrete(), Abalone(), TeacherStudent()], ids=lambda config: config.name)
def test_training_data_are_standardised(config: Concrete | Abalone | TeacherStudent) -> None:
    problem = make_problem(config, seed=3, dtype="float64")
    for part in problem.train.all():
        assert torch.allclose(part.mean(0), torch.zeros(1).double(), atol=1e-10)
        assert torch.allclose(part.std(0, correction=0), torch.ones(1).double(), atol=1e-10)


def test_the_split_is_a_partition_and_the_target_unit_comes_back() -> None:
    problem = make_problem(Concrete(test_fraction=0.25), seed=0, dtype="float64")
    assert (len(problem.train.all().inputs), len(problem.test.all().inputs)) == (772, 258)
    original = read_table(_path("concrete.csv"), "compressive_strength").targets[:, 0]
    scaled = torch.cat([problem.train.all().targets, problem.test.all().targets])[:, 0].numpy() * problem.target_scale
    shift = original.mean() - scaled.mean()
    assert np.allclose(np.sort(scaled + shift), np.sort(original))


def _path(name: str) -> Path:
    from harness.problems.sources import DATA

    return DATA / name


def test_seeds_decide_everything_and_nothing_else_does() -> None:
    first, again, other = (make_problem(Concrete(), seed) for seed in (1, 1, 2))
    torch.manual_seed(99)
    assert torch.equal(first.train.all().inputs, again.train.all().inputs)
    assert not torch.equal(first.train.all().inputs, other.train.all().inputs)
    weights = [p.model()[0].weight for p in (first, first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    assert first.order_seed == again.order_seed != other.order_seed


def test_width_and_depth_make_the_model() -> None:
    model = make_problem(TeacherStudent(width=7, depth=3, inputs=5), seed=0).model()
    assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [(7, 5), (7, 7), (7, 7), (1, 7)]


def test_noise_is_on_the_training_targets_only() -> None:
    clean, noisy = (make_problem(TeacherStudent(noise=n), seed=0, dtype="float64") for n in (0.0, 0.5))
    scale = noisy.target_scale / clean.target_scale
    assert 1.05 < scale < 1.2  # √(1 + 0.5²) ≈ 1.118
    difference = noisy.test.all().targets * scale - clean.test.all().targets
    assert torch.allclose(difference, difference.mean().expand_as(difference), atol=1e-9)


def test_constant_columns_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "".join(f"{i},7,{i * 2}\n" for i in range(10)))
    problem = make_problem(CsvTable(path=path, target="y"), seed=0)
    assert bool(torch.isfinite(problem.train.all().inputs).all())


def test_a_constant_target_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{i},5\n" for i in range(10)))
    with pytest.raises(UserError, match="problem 't': the target 'y' is the same"):
        make_problem(CsvTable(path=path, target="y"), seed=0)


def test_a_table_too_small_to_split(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,2\n2,3\n")
    with pytest.raises(UserError, match="cannot be split"):
        make_problem(CsvTable(path=path, target="y", test_fraction=0.1), seed=0)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{i},{i}\n" for i in range(10)))
    config = CsvTable(path=path, target="y")
    moved = tmp_path / "moved.csv"
    moved.write_bytes(path.read_bytes())
    assert CsvTable(path=moved, target="y").identity() == config.identity()
    assert CsvTable(path=path, target="y", unit="kg").identity() == config.identity()
    path.write_text("a,y\n" + "".join(f"{i},{i + 1}\n" for i in range(10)))
    assert CsvTable(path=path, target="y").identity() != config.identity()
    with pytest.raises(UserError, match="has changed"):
        make_problem(config, seed=0)


def test_digits_are_turned_by_the_angle_that_is_asked_for(tmp_path: Path) -> None:
    """A lying bar is turned into the direction of the angle, as far as 8 × 8 pixels tell."""
    bar = np.zeros((8, 8), dtype=int)
    bar[3:5, 1:7] = 16
    path = tmp_path / "bars.csv.gz"
    path.write_bytes(gzip.compress(("\n".join([",".join(map(str, [*bar.ravel(), 0]))] * 40)).encode()))
    images, angles = turned(digits(path), 45.0, np.random.default_rng(0))
    assert images.shape == (40, 1, 8, 8)
    assert np.abs(angles).max() <= 45
    assert np.abs(angles).max() > 30
    rows, columns = np.mgrid[:8, :8] - 3.5
    # The principal axis of the brightness; rows count downwards, so a turn to the left is positive.
    xx, yy, xy = ((images[:, 0] * product).sum((1, 2)) for product in (columns**2, rows**2, -rows * columns))
    directions = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))
    slope, offset = np.polyfit(angles[:, 0], directions, 1)
    assert slope == pytest.approx(1, abs=0.1)
    assert offset == pytest.approx(0, abs=1)
    assert np.abs(directions - angles[:, 0]).max() < 6


def test_rotated_digits_have_one_scale_and_a_convolutional_network() -> None:
    problem = make_problem(RotatedDigits(), seed=1, dtype="float64")
    assert problem.train.all().inputs.shape == (1438, 1, 8, 8)
    assert problem.test.all().targets.shape == (359, 1)
    assert float(problem.train.all().inputs.mean()) == pytest.approx(0, abs=1e-9)
    assert float(problem.train.all().inputs.std(correction=0)) == pytest.approx(1)
    assert problem.target_scale == pytest.approx(90 / 12**0.5, rel=0.03)  # of a uniform angle
    model = problem.model()
    assert [type(layer).__name__ for layer in model if list(layer.parameters())] == ["Conv2d", "Conv2d", "Linear"]
    assert model(problem.test.all().inputs).shape == (359, 1)
    other = make_problem(RotatedDigits(), seed=2, dtype="float64")
    assert other.digest != problem.digest
    assert not torch.equal(other.train.all().targets, problem.train.all().targets)
