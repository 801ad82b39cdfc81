"""Curves of Braille characters, each of 2 x 4 dots."""

from collections.abc import Sequence

import numpy as np

DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
"""The bit of each dot, row by column, above U+2800 (Unicode 16, section 21.1)."""


def curve(x: Sequence[float], y: Sequence[float], width: int, height: int) -> list[str]:
    """The curve through the points as `height` lines of `width` characters, with the lowest value at the bottom.

    x: not decreasing. Points in the same column of dots are averaged, columns without points are interpolated, and
    values that are not finite are left out.
    """
    points = np.array([x, y], float)
    known_x, known_y = points[:, np.isfinite(points).all(axis=0)]
    dots = np.zeros((4 * height, 2 * width), np.uint8)
    if len(known_x):
        rows = _rows(known_x, known_y, 2 * width, 4 * height)
        before = np.concatenate([rows[:1], rows[:-1]])
        for column, (start, end) in enumerate(zip(before, rows, strict=True)):
            # Fills the column from the height of the column before, so that steep parts have no gaps.
            first, last = (start + np.sign(end - start), end) if column else (end, end)
            dots[min(first, last) : max(first, last) + 1, column] = 1
    bits = (dots.reshape(height, 4, width, 2) * DOTS[None, :, None, :]).sum(axis=(1, 3))
    return ["".join(chr(0x2800 + int(bit)) for bit in row) for row in bits]


def _rows(x: np.ndarray, y: np.ndarray, num_columns: int, num_rows: int) -> np.ndarray:
    """The row of the curve's dot in each column, counted from the top, for the columns that the points span."""
    span = x[-1] - x[0]
    columns = np.round((x - x[0]) / span * (num_columns - 1)).astype(int) if span > 0 else np.zeros(len(x), int)
    present, which = np.unique(columns, return_inverse=True)
    means = np.bincount(which, weights=y) / np.bincount(which)
    heights = np.interp(np.arange(present[-1] + 1), present, means)
    low, high = means.min(), means.max()
    share = (heights - low) / (high - low) if high > low else np.full(len(heights), 0.5)
    return np.round((1 - share) * (num_rows - 1)).astype(int)
