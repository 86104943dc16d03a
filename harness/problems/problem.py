"""A problem made ready for training: tensors of training and test samples, and fresh models."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from .configs import Abalone, Concrete, CsvTable, ProblemConfig, TeacherStudent
from .models import mlp, own_model
from .tables import FloatArray, digest, read_table

__all__ = ["Problem", "Split", "make_problem"]

DATA = Path(__file__).parent / "data"


class Split(NamedTuple):
    """Inputs (n, d) and targets (n, o), standardised."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Problem:
    """Data and model of one seed.

    The split, the initial weights and (through ``order_seed``) the order of the batches depend on the seed, and on
    nothing else: methods that share a seed share all three.

    Attributes:
        config: What the suite said.
        train: Standardised to mean 0 and variance 1, inputs and targets.
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
        config = self.config
        if config.model is not None:
            return own_model(config.model, inputs, outputs, self.model_seed).to(self.train.inputs)
        model = mlp(inputs, config.width, config.depth, outputs, config.activation, self.model_seed)
        return model.to(self.train.inputs)


def make_problem(config: ProblemConfig, seed: int, device: str = "cpu", dtype: str = "float32") -> Problem:
    """Loads or draws the data, splits and standardises them.

    Raises:
        UserError: A table cannot be read, or is too small to split.
    """
    split_seed, model_seed, order_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
    if isinstance(config, TeacherStudent):
        train, test = _teacher_student(config, split_seed)
        target, source, content = "teacher's output", "drawn at random", f"seed-{split_seed:08x}"
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
    x_mean, x_std = x.mean(0), _scale(x)
    y_mean, y_std = y.mean(0), _scale(y)

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


def _scale(columns: FloatArray) -> FloatArray:
    """Standard deviations, with 1 for constant columns."""
    std = columns.std(0)
    return np.where(std > 0, std, 1.0)
