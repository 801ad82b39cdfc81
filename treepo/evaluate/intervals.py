"""Means over problems, and how far they may be off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Share of evaluations on other problems whose interval should hold the true mean."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval."""

    value: float
    low: float
    high: float


def mean_with_interval(
    sets: Sequence[np.ndarray], rng: np.random.Generator, num_resamples: int = 10_000, level: float = LEVEL
) -> Estimate:
    """The mean over all problems of all sets and its percentile bootstrap interval.

    sets: per set float64 [problems], one value per problem. Problems are drawn anew within their set, each with all its
    answers, so that answers to one problem need not be independent and the sets keep their sizes. Problems that all
    agree, or a single one, give an interval of no width: nothing is known of others then, it is not certainty.
    Raises ValueError if there is no problem.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    num_problems = sum(len(values) for values in sets)
    if num_problems == 0:
        raise ValueError("sets: there are no problems")
    sums = np.zeros(num_resamples)
    for values in sets:
        if len(values) > 0:
            sums += _resampled_sums(values, rng, num_resamples)
    mean = math.fsum(value for values in sets for value in values) / num_problems
    tail = (1 - level) / 2
    low, high = np.quantile(sums / num_problems, [tail, 1 - tail])
    # Sums are rounded in another order than the mean: it must not lie outside for that.
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def _resampled_sums(values: np.ndarray, rng: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Sums of as many values drawn with replacement, float64 [num_resamples]."""
    # How often each distinct value is drawn is multinomial: few values instead of many problems, and no order.
    distinct, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=num_resamples) @ distinct
