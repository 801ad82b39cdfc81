"""Softmax, and shares in whole numbers."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [n]: exp(logits) scaled to sum to 1; the largest logit is subtracted first, so nothing overflows."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def largest_remainder(total: int, shares: Sequence[float] | Sequence[Fraction]) -> list[int]:
    """Whole numbers that add up to `total`, each less than 1 away from share x total. shares: they sum to 1.

    Source: Hamilton's method of apportionment. The largest remainders are rounded up; of equal ones, the first.
    """
    quotas = [share * total for share in shares]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
