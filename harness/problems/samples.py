"""The samples of a training or test set, from which batches are made."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "ImageSamples", "Samples", "TensorSamples"]

CHUNK_BYTES = 16 * 2**20  # of inputs: a network's activations are many times as large

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


class Batch(NamedTuple):
    """Inputs (b, d), or images (b, c, h, w), and targets (b, o), standardised."""

    inputs: Tensor
    targets: Tensor


class Samples(ABC):
    """Samples in a fixed order; which of them form a batch is the caller's to say."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def take(self, indices: Tensor) -> Batch:
        """The samples at ``indices`` (b,), integers on the CPU, on the problem's device."""

    @property
    def shape(self) -> torch.Size:
        """Of one sample's inputs."""
        return self.first(1).inputs.shape[1:]

    @property
    def sample_bytes(self) -> int:
        """Memory of one sample's inputs."""
        inputs = self.first(1).inputs
        return inputs.numel() * inputs.element_size()

    def first(self, count: int) -> Batch:
        """The first ``count`` samples."""
        return self.take(torch.arange(count))

    def all(self) -> Batch:
        """Every sample, in order."""
        return self.first(len(self))

    def chunks(self) -> Iterator[Batch]:
        """Every sample, in order, in batches that a network can be evaluated on at once."""
        yield from map(self.take, torch.split(torch.arange(len(self)), max(1, CHUNK_BYTES // self.sample_bytes)))


class TensorSamples(Samples):
    """Samples that are in memory, and on the problem's device.

    Args:
        inputs: Shape (n, d), or (n, c, h, w).
        targets: Shape (n, o).
    """

    def __init__(self, inputs: Tensor, targets: Tensor):
        self._all = Batch(inputs, targets)

    def __len__(self) -> int:
        return len(self._all.inputs)

    def take(self, indices: Tensor) -> Batch:
        indices = indices.to(self._all.inputs.device)
        return Batch(self._all.inputs[indices], self._all.targets[indices])

    def all(self) -> Batch:
        return self._all


class ImageSamples(Samples):
    """Images that stay on disk, eight bits a pixel, and are read and standardised batch by batch.

    Args:
        pixels: Shape (N, c, h, w), as a rule memory-mapped: the images of training and test set alike.
        rows: Which of them are in this set, (n,).
        targets: Of this set, standardised, (n, o); gives device and precision.
        mean: What is subtracted from a pixel.
        scale: What it is divided by then.
    """

    def __init__(self, pixels: Pixels, rows: Rows, targets: Tensor, mean: float, scale: float):
        self._pixels, self._rows, self._targets = pixels, rows, targets
        self._mean, self._scale = mean, scale

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Tensor) -> Batch:
        read = torch.from_numpy(self._pixels[self._rows[indices.numpy()]])  # (b, c, h, w), a quarter of float32's bytes
        inputs = read.to(self._targets.device).to(self._targets.dtype)
        return Batch(inputs.sub_(self._mean).div_(self._scale), self._targets[indices.to(self._targets.device)])
