"""A stereo pair as image regression: how far a point has moved from one photograph to the other.

The pair is "Motorcycle" of the Middlebury stereo benchmark (Scharstein et al. 2014), a quarter of its size, with
disparities that were measured by structured light; scikit-image brings it. A point at column x of the left photograph
is at column x − d of the right one, d its disparity.
"""

import numpy as np
from scipy.ndimage import uniform_filter1d

from .packages import needed

__all__ = ["disparities"]

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Indices = np.ndarray[tuple[int, ...], np.dtype[np.intp]]

SHIFTS = 64  # disparities lie between 7 and 60 pixels
WINDOW_ROWS = 16  # of a cost image
SMOOTHED = 5  # pixels of a row over which differences are averaged
TOLERANCE = 0.05  # of brightness, which runs from 0 to 1
BLOCK_ROWS = 50  # a block of rows belongs to the training or to the test set
TEST_BLOCKS = 2  # of ten

Part = tuple[FloatArray, FloatArray]


def disparities(samples: int, test_samples: int, generator: np.random.Generator) -> tuple[Part, Part]:
    """Cost images and disparities of pixels drawn at random, training and test pixels from different rows.

    No pixel is in the windows of both: a window ends where its block of rows does.

    Args:
        samples: Training pixels.
        test_samples: Test pixels.
        generator: Draws the blocks of the test set, and the pixels.

    Returns:
        For each part cost images (n, 1, 16, 64), 1 where both photographs agree and near 0 where they do not, and
        disparities (n, 1) in pixels.

    Raises:
        UserError: scikit-image is not installed.
    """
    left, right, disparity = needed("skimage.data").stereo_motorcycle()
    left, right = (photograph.astype(np.float64) / 255 for photograph in (left, right))  # (h, w, 3)
    blocks = generator.permutation(len(left) // BLOCK_ROWS)
    parts = []
    for chosen, count in ((blocks[TEST_BLOCKS:], samples), (blocks[:TEST_BLOCKS], test_samples)):
        rows, columns = _pixels(disparity, chosen, count, generator)
        parts.append((_cost_images(left, right, rows, columns), disparity[rows, columns, None].astype(np.float64)))
    return parts[0], parts[1]


def _pixels(
    disparity: FloatArray, blocks: Indices, count: int, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """Rows and columns (count,) of pixels whose disparity was measured and whose window lies within its block."""
    usable = np.isfinite(disparity)
    usable[:, : SHIFTS + SMOOTHED // 2] = False
    half = WINDOW_ROWS // 2
    row = np.arange(len(disparity))
    inside = (row % BLOCK_ROWS >= half) & (row % BLOCK_ROWS <= BLOCK_ROWS - half) & np.isin(row // BLOCK_ROWS, blocks)
    usable &= inside[:, None]
    places = np.argwhere(usable)  # (pixels, 2)
    rows, columns = places[generator.choice(len(places), count, replace=False)].T
    return rows, columns


def _cost_images(left: FloatArray, right: FloatArray, rows: Indices, columns: Indices) -> FloatArray:
    """exp(−cost / tolerance), with cost[k, s] the mean |L[r+k, c] − R[r+k, c−s]| over a few columns and three colours.

    The rows r + k run from r − 8 to r + 7, the shifts s from 0 to 63.
    """
    window = rows[:, None] + np.arange(WINDOW_ROWS) - WINDOW_ROWS // 2  # (n, 16)
    images = np.empty((len(rows), 1, WINDOW_ROWS, SHIFTS))
    for shift in range(SHIFTS):
        difference = np.abs(left[:, shift:] - right[:, : right.shape[1] - shift]).mean(2)  # (h, w − shift)
        cost = uniform_filter1d(difference, SMOOTHED, axis=1)
        images[:, 0, :, shift] = np.exp(-cost[window, columns[:, None] - shift] / TOLERANCE)
    return images
