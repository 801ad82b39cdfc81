"""Components of the reward that need no function, and their sum."""

from collections.abc import Mapping

import numpy as np

ROUNDING = 1e-9
"""Sums that differ by less, relative to the largest value of any component, differ by rounding."""


def overlong_penalty(lengths: np.ndarray, max_response_tokens: int, buffer: int) -> np.ndarray:
    """min(-(length - (limit - buffer)) / buffer, 0): 0 up to limit - buffer, then linear to -1 at the longest response.

    Source: soft overlong punishment, DAPO, arXiv 2503.14476, eq. 13; TreePO takes 512 of 7168 tokens. Right and wrong
    answers alike.
    """
    return np.minimum((max_response_tokens - buffer - lengths) / buffer, 0.0)


def length_reward(lengths: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """x = 0.5 - (length - shortest) / (longest - shortest) over the group where right, min(0, x) where wrong.

    Source: Kimi k1.5, arXiv 2501.12599, section 2.3.3, which switches it on later in training. 0 where all lengths are
    equal, so for a single answer too. Assumes that of several right answers the shorter is better.
    """
    span = lengths.max() - lengths.min()
    if span == 0:
        return np.zeros(len(lengths))
    short = 0.5 - (lengths - lengths.min()) / span
    return np.where(correct > 0, short, np.minimum(short, 0.0))


def length_effect(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """slope x (length - mean length), with the least-squares slope of the group's rewards on its lengths.

    Rewards minus this, the residual of a linear regression with an intercept, keep their mean and are uncorrelated with
    length. 0 where lengths or rewards all agree, so for a single answer too; two answers of unequal length are wholly
    explained and carry no signal any more. Assumes that among the answers to one problem length has no merit of its
    own: if only long answers are right, that is subtracted as well. Answers without a reward (nan) explain nothing.
    Source: this project's own.
    """
    known = ~np.isnan(rewards)
    rewards, own = rewards[known], lengths[known]
    if not len(own) or rewards.min() == rewards.max() or own.min() == own.max():
        return np.zeros(len(lengths))
    longer = own - own.mean()
    return (lengths - own.mean()) * (longer @ (rewards - rewards.mean()) / (longer @ longer))


def total(components: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 [L]: the sum of the components.

    Values that differ by rounding alone all become the first of them, since a tree whose rewards agree must not be
    taken for one with a signal.
    """
    values = np.array(list(components.values()), np.float64)
    summed = values.sum(axis=0)
    known = ~np.isnan(summed)
    if known.any() and np.ptp(summed[known]) <= ROUNDING * np.abs(values[:, known]).max():
        return np.where(known, summed[known][0], np.nan)
    return summed
