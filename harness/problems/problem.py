"""A problem made ready for training: standardised samples, and fresh models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from .configs import ProblemConfig, TwoLayer
from .networks import network
from .samples import ImageSamples, Samples, StoredImages, TensorSamples
from .sources import Part, read
from .tables import FloatArray

__all__ = ["Problem", "make_problem"]


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
        notes: What was found of data that the user brings, in words.
        model_seed: Seed of the initial weights.
        order_seed: Seed of the order of the batches.
    """

    config: ProblemConfig
    train: Samples
    test: Samples
    target_scale: float
    target: str
    source: str
    digest: str
    notes: Sequence[str]
    model_seed: int
    order_seed: int

    def model(self) -> nn.Module:
        """A fresh model, always with the same initial weights."""
        inputs, targets = self.train.first(1)
        return network(self.config, tuple(inputs.shape[1:]), targets.shape[1], self.model_seed).to(inputs)


def make_problem(config: ProblemConfig, seed: int, device: str = "cpu", dtype: str = "float32") -> Problem:
    """Loads or draws the data, splits and standardises them.

    Raises:
        UserError: The data cannot be read, or there are too few to split.
    """
    split_seed, model_seed, order_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(3))
    data = read(config, split_seed, model_seed)
    if data.train.targets.std() == 0:
        raise UserError(f"problem '{config.label}': the target '{data.target}' is the same in all training samples")
    x_mean, x_std, y_mean, y_std = _standard(config, data.train)

    def tensor(array: FloatArray) -> Tensor:
        return torch.tensor(array, dtype=getattr(torch, dtype), device=device)

    def samples(part: Part) -> Samples:
        targets = tensor((part.targets - y_mean) / y_std)
        if isinstance(part.inputs, StoredImages):
            return ImageSamples(part.inputs, targets, float(x_mean[0]), float(x_std[0]))
        return TensorSamples(tensor((part.inputs - x_mean) / x_std), targets)

    return Problem(
        config=config,
        train=samples(data.train),
        test=samples(data.test),
        target_scale=float(y_std[0]),
        target=data.target,
        source=data.source,
        digest=data.digest,
        notes=data.notes,
        model_seed=model_seed,
        order_seed=order_seed,
    )


def _standard(config: ProblemConfig, train: Part) -> tuple[FloatArray, ...]:
    """What to subtract from the inputs, what to divide them by, and the same for the targets."""
    if isinstance(config, TwoLayer):
        return np.zeros(1), np.ones(1), np.zeros(1), np.ones(1)
    x, y = train
    # Of an image all pixels share one scale: a corner that is almost always dark would be blown up by its own.
    if isinstance(x, StoredImages):
        mean, std = map(np.atleast_1d, x.moments())
    else:
        columns = x.reshape(-1, 1) if x.ndim > 2 else x
        mean, std = columns.mean(0), columns.std(0)
    return mean, _scale(std), y.mean(0), _scale(y.std(0))


def _scale(std: FloatArray) -> FloatArray:
    """Standard deviations, with 1 for what is constant."""
    return np.where(std > 0, std, 1.0)
