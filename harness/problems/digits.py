"""Handwritten digits, each turned by an angle of its own: the angle is to be told from the image."""

import gzip
from pathlib import Path

import numpy as np
from scipy.ndimage import rotate

__all__ = ["rotated_digits"]

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

SIDE = 8  # pixels
BRIGHTEST = 16.0


def rotated_digits(path: Path, degrees: float, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Reads the digits and turns each by an angle drawn from U(−degrees, degrees).

    Args:
        path: The digits, 64 brightnesses from 0 to 16 and a label in each line, compressed by gzip.
        degrees: The largest angle.
        generator: Draws the angles.

    Returns:
        Images (n, 1, 8, 8) with brightnesses from 0 to 1, and angles (n, 1) in degrees.
    """
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",")  # (n, 65); the last column, the digit, is not used
    upright = table[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE) / BRIGHTEST
    angles = generator.uniform(-degrees, degrees, len(upright))
    turned = [rotate(image, angle, order=1, reshape=False) for image, angle in zip(upright, angles, strict=True)]
    return np.stack(turned)[:, None], angles[:, None]  # (n, 1, 8, 8), (n, 1)
