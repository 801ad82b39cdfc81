"""Whitening over the tokens of a batch."""

from collections.abc import Callable, Sequence

import numpy as np

from treepo.tree import ROOT, Tree

VARIANCE_EPS = 1e-8

Sums = Callable[[np.ndarray], np.ndarray]
"""float64 [n] of each process -> [n], added up over all of them."""


def same(values: np.ndarray) -> np.ndarray:
    """The sums of a single process."""
    return values


def token_counts(tree: Tree, advantages: np.ndarray) -> np.ndarray:
    """int64, for each advantage of a tree the response tokens of trajectories that have it: those of a leaf; those of a
    node once for each leaf below it; those of a node in a trajectory through it. None for the root."""
    if not tree.is_per_node(advantages):
        return np.array([tree.response_len(leaf) for leaf in tree.leaves()])
    lengths = np.array([len(n.token_ids) * (i != ROOT) for i, n in enumerate(tree.nodes)])
    counts = np.zeros((len(tree.nodes), len(tree.leaves())), np.int64)
    for i, leaves in tree.groups().items():
        counts[i, leaves] = lengths[i]
    return counts if advantages.ndim == 2 else counts.sum(axis=1)


def whiten(advantages: Sequence[np.ndarray], num_tokens: Sequence[np.ndarray], sums: Sums = same) -> list[np.ndarray]:
    """A = (raw - mu) / sqrt(var + 1e-8), mu and unbiased var over all response tokens of all trajectories of the batch.

    advantages, num_tokens: per tree the values and how many tokens have each; see `token_counts`. sums: adds up numbers
    over the processes among which the batch is divided. Fewer than two tokens are only centred, and what no token has
    becomes 0. Source: TreePO, section 2.3, as its authors' release completes it.
    """
    return whiten_with(advantages, num_tokens, *whitening(advantages, num_tokens, sums))


def whitening(
    advantages: Sequence[np.ndarray], num_tokens: Sequence[np.ndarray], sums: Sums = same
) -> tuple[float, float]:
    """(mu, sqrt(var + 1e-8)) of `whiten`."""
    none = np.zeros(0)
    flat, counts = (np.concatenate([none, *(a.ravel() for a in arrays)]) for arrays in (advantages, num_tokens))
    mean, variance = moments(flat, counts, sums)
    return float(mean), float(np.sqrt(variance + VARIANCE_EPS))


def whiten_with(
    advantages: Sequence[np.ndarray], num_tokens: Sequence[np.ndarray], mean: float, std: float
) -> list[np.ndarray]:
    """(raw - mean) / std, 0 where no token has it."""
    white = [(a - mean) / std for a in advantages]
    return [np.where(n > 0, w, 0.0) for w, n in zip(white, num_tokens, strict=True)]


def moments(values: np.ndarray, weights: np.ndarray, sums: Sums = same) -> tuple[float, float]:
    """(mean, unbiased variance) of values that stand for `weights` items each; squares are taken around the mean of all
    processes, so that nothing is lost where it is large."""
    num_items, total = sums(np.array([weights.sum(), (weights * values).sum()]))
    mean = total / max(num_items, 1)
    (squares,) = sums(np.array([(weights * (values - mean) ** 2).sum()]))
    return mean, squares / max(num_items - 1, 1)
