"""Numbers as the page holds them: finite and short, or null."""

import math
from collections.abc import Iterable

import numpy as np


def short(value: float, digits: int = 6) -> float | None:
    """With so many significant digits; None for what is not finite."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    # Whole numbers are a character shorter without their ".0".
    return int(rounded) if rounded.is_integer() else rounded


def shorts(values: Iterable[float]) -> list[float | None]:
    return [short(value) for value in values]


def thousandths(values: np.ndarray) -> list[float | None]:
    """Rounded to three decimals."""
    # A float32 that is rounded is still one, and written with all the digits of the float64 next to it.
    rounded = np.round(values.astype(np.float64), 3).tolist()
    return [(value or 0) if math.isfinite(value) else None for value in rounded]
