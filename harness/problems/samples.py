"""The samples of a training or test set, from which batches are made."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "ImageSamples", "Samples", "StoredImages", "TensorSamples"]

# Samples that a network is evaluated on at once: of small ones as many as SMALL_BYTES hold, of others up to 256, unless
# that is more than LARGE_BYTES. A network's activations are many times as large, and a CPU likes them in its caches.
SMALL_BYTES, LARGE_BYTES, CHUNK = 2**20, 2**26, 256

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Rows = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class StoredImages(NamedTuple):
    """Images on disk, eight bits a pixel.

    Attributes:
        pixels: Shape (N, c, h, w), as a rule memory-mapped: the images of training and test set alike.
        rows: Which of them are meant, (n,).
    """

    pixels: Pixels
    rows: Rows

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation over all pixels of the images that are meant."""
        counts = np.zeros(256, dtype=np.int64)
        for rows in np.array_split(self.rows, max(1, self.rows.size * self.pixels[0].size // LARGE_BYTES)):
            counts += np.bincount(self.pixels[rows].reshape(-1), minlength=256)
        values = np.arange(256)
        mean = np.average(values, weights=counts)
        return float(mean), float(np.average((values - mean) ** 2, weights=counts) ** 0.5)


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
        size = max(1, min(CHUNK, LARGE_BYTES // self.sample_bytes), SMALL_BYTES // self.sample_bytes)
        yield from map(self.take, torch.split(torch.arange(len(self)), size))


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
        images: The images.
        targets: Standardised, (n, o); gives device and precision.
        mean: What is subtracted from a pixel.
        scale: What it is divided by then.
    """

    def __init__(self, images: StoredImages, targets: Tensor, mean: float, scale: float):
        self._images, self._targets = images, targets
        self._mean, self._scale = mean, scale

    def __len__(self) -> int:
        return len(self._targets)

    def take(self, indices: Tensor) -> Batch:
        pixels, rows = self._images
        read = torch.from_numpy(pixels[rows[indices.numpy()]])  # (b, c, h, w), a quarter of float32's bytes
        inputs = read.to(self._targets.device).to(self._targets.dtype)
        return Batch(inputs.sub_(self._mean).div_(self._scale), self._targets[indices.to(self._targets.device)])
