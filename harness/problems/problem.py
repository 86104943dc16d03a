"""A problem made ready for training: tensors of training and test samples, and fresh models."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from .configs import Abalone, Concrete, CsvTable, ProblemConfig, RotatedDigits, TeacherStudent, TwoLayer
from .digits import rotated_digits
from .models import cnn, mlp, own_model
from .tables import FloatArray, digest, read_table
from .two_layer import TwoLayerNetwork, sphere

__all__ = ["Problem", "Split", "make_problem"]

DATA = Path(__file__).parent / "data"


class Split(NamedTuple):
    """Inputs (n, d), or images (n, 1, 8, 8), and targets (n, o), standardised."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Problem:
    """Data and model of one seed.

    The split, the initial weights and (through ``order_seed``) the order of the batches depend on the seed, and on
    nothing else: methods that share a seed share all three.

    Attributes:
        config: What the suite said.
        train: Standardised to mean 0 and variance 1, inputs (images as a whole) and targets; those of the theorems'
            network are as the theorems have them.
        test: Standardised by the training part's mean and variance.
        target_scale: Standard deviation of the training targets, in their own unit.
        target: What is predicted.
        source: Where the data come from.
        digest: Of the data's content.
        model_seed: Seed of the initial weights.
        order_seed: Seed of the order of the batches.
    """

    config: ProblemConfig
    train: Split
    test: Split
    target_scale: float
    target: str
    source: str
    digest: str
    model_seed: int
    order_seed: int

    def model(self) -> nn.Module:
        """A fresh model, always with the same initial weights."""
        inputs, outputs = self.train.inputs.shape[1], self.train.targets.shape[1]
        return _model(self.config, inputs, outputs, self.model_seed).to(self.train.inputs)


def make_problem(config: ProblemConfig, seed: int, device: str = "cpu", dtype: str = "float32") -> Problem:
    """Loads or draws the data, splits and standardises them.

    Raises:
        UserError: A table cannot be read, or is too small to split.
    """
    split_seed, model_seed, order_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
    if isinstance(config, TeacherStudent):
        train, test = _teacher_student(config, split_seed)
        target, source, content = "teacher's output", "drawn at random", f"seed-{split_seed:08x}"
    elif isinstance(config, TwoLayer):
        train, test = _two_layer(config, split_seed, model_seed)
        target, source, content = "drawn", "drawn at random", f"seed-{split_seed:08x}"
    elif isinstance(config, RotatedDigits):
        path = DATA / "digits.csv.gz"
        generator = np.random.default_rng(split_seed)
        train, test = _split(
            *rotated_digits(path, config.degrees, generator), config.test_fraction, int(generator.integers(2**32)), path
        )
        target, content = "angle", f"{digest(path)[:8]}-{split_seed:08x}"
        source = "UCI Machine Learning Repository, dataset 80, CC BY 4.0; turned by angles drawn at random"
    else:
        table = _table_source(config)
        features, targets = _read(table)
        train, test = _split(features, targets, config.test_fraction, split_seed, table.path)
        target, source, content = table.target, table.source, digest(table.path)
        if isinstance(config, CsvTable) and content != config.digest:
            raise UserError(f"{table.path}: the file has changed since the suite was read")
    (x, y), (x_test, y_test) = train, test
    if y.std() == 0:
        raise UserError(f"problem '{config.label}': the target '{target}' is the same in all training samples")
    x_mean, x_std, y_mean, y_std = _standard(config, x, y)

    def tensor(array: FloatArray) -> Tensor:
        return torch.tensor(array, dtype=getattr(torch, dtype), device=device)

    return Problem(
        config=config,
        train=Split(tensor((x - x_mean) / x_std), tensor((y - y_mean) / y_std)),
        test=Split(tensor((x_test - x_mean) / x_std), tensor((y_test - y_mean) / y_std)),
        target_scale=float(y_std[0]),
        target=target,
        source=source,
        digest=content,
        model_seed=model_seed,
        order_seed=order_seed,
    )


class _TableSource(NamedTuple):
    path: Path
    target: str
    categorical: tuple[str, ...]
    source: str


def _table_source(config: Concrete | Abalone | CsvTable) -> _TableSource:
    match config:
        case Concrete():
            source = "UCI Machine Learning Repository, dataset 165, CC BY 4.0"
            return _TableSource(DATA / "concrete.csv", "compressive_strength", (), source)
        case Abalone():
            source = "UCI Machine Learning Repository, dataset 1, CC BY 4.0"
            return _TableSource(DATA / "abalone.csv", "rings", ("sex",), source)
        case CsvTable():
            return _TableSource(config.path, config.target, config.categorical, config.path.name)


def _read(table: _TableSource) -> tuple[FloatArray, FloatArray]:
    read = read_table(table.path, table.target, table.categorical)
    return read.features, read.targets


Arrays = tuple[FloatArray, FloatArray]


def _split(
    features: FloatArray, targets: FloatArray, test_fraction: float, seed: int, path: Path
) -> tuple[Arrays, Arrays]:
    total = len(features)
    test_size = round(total * test_fraction)
    if not 0 < test_size < total:
        raise UserError(f"{path}: {total} rows cannot be split with test_fraction {test_fraction}: one part is empty")
    order = np.random.default_rng(seed).permutation(total)
    test, train = order[:test_size], order[test_size:]
    return (features[train], targets[train]), (features[test], targets[test])


def _teacher_student(config: TeacherStudent, seed: int) -> tuple[Arrays, Arrays]:
    generator = np.random.default_rng(seed)
    teacher = mlp(config.inputs, config.teacher_width, config.teacher_depth, 1, config.activation, seed).double()
    inputs = generator.standard_normal((config.samples + config.test_samples, config.inputs))
    with torch.no_grad():
        targets = teacher(torch.from_numpy(inputs)).numpy()
    # The noise is relative to the teacher's own spread, and only the training targets carry it.
    noise = config.noise * targets.std() * generator.standard_normal((config.samples, 1))
    n = config.samples
    return (inputs[:n], targets[:n] + noise), (inputs[n:], targets[n:])


def _two_layer(config: TwoLayer, seed: int, model_seed: int) -> tuple[Arrays, Arrays]:
    generator = np.random.default_rng(seed)
    n = config.samples
    inputs = sphere(n + config.test_samples, config.inputs, generator)
    with torch.no_grad():
        targets = _model(config, config.inputs, 1, model_seed)(torch.from_numpy(inputs)).numpy()
    residuals = generator.standard_normal((len(inputs), 1))
    targets = targets - residuals / np.sqrt(np.mean(residuals[:n] ** 2))
    return (inputs[:n], targets[:n]), (inputs[n:], targets[n:])


def _model(config: ProblemConfig, inputs: int, outputs: int, seed: int) -> nn.Module:
    if config.model is not None:
        return own_model(config.model, inputs, outputs, seed)
    match config:
        case TwoLayer():
            return TwoLayerNetwork(inputs, config.width, config.activation, seed)
        case RotatedDigits():
            return cnn(config.width, config.depth, outputs, config.activation, seed)
        case _:
            return mlp(inputs, config.width, config.depth, outputs, config.activation, seed)


def _standard(config: ProblemConfig, x: FloatArray, y: FloatArray) -> tuple[FloatArray, ...]:
    """What to subtract from the inputs, what to divide them by, and the same for the targets."""
    if isinstance(config, TwoLayer):
        return np.zeros(1), np.ones(1), np.zeros(1), np.ones(1)
    # Of an image all pixels share one scale: a corner that is almost always dark would be blown up by its own.
    pixels = x.reshape(-1, 1) if x.ndim > 2 else x
    return pixels.mean(0), _scale(pixels), y.mean(0), _scale(y)


def _scale(columns: FloatArray) -> FloatArray:
    """Standard deviations, with 1 for constant columns."""
    std = columns.std(0)
    return np.where(std > 0, std, 1.0)
