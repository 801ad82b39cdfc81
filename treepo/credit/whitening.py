"""Whitening over the tokens of a batch."""

import numpy as np

VARIANCE_EPS = 1e-8


def whiten(advantages: list[np.ndarray], lengths: list[np.ndarray]) -> list[np.ndarray]:
    """A_i = (raw_i - mu) / sqrt(var + 1e-8), mu and unbiased var over all response tokens of the batch.

    advantages, lengths: per tree one value and one number of response tokens per leaf. Fewer than two tokens are
    only centred. Source: TreePO, section 2.3, as its authors' release completes it.
    """
    raw, weights = np.concatenate(advantages), np.concatenate(lengths)
    num_tokens = weights.sum()
    mean = (raw * weights).sum() / num_tokens
    variance = (weights * (raw - mean) ** 2).sum() / max(num_tokens - 1, 1)
    return [(a - mean) / np.sqrt(variance + VARIANCE_EPS) for a in advantages]
