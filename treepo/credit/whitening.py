"""Whitening over the tokens of a batch."""

import numpy as np

from treepo.tree import ROOT, Tree

VARIANCE_EPS = 1e-8


def token_counts(tree: Tree, advantages: np.ndarray) -> np.ndarray:
    """int64, for each advantage of a tree the response tokens of trajectories that have it: those of a leaf, or those
    of a node once for each leaf below it, none for the root."""
    if not tree.is_per_node(advantages):
        return np.array([tree.response_len(leaf) for leaf in tree.leaves()])
    groups = tree.groups()
    return np.array([len(n.token_ids) * len(groups.get(i, ())) * (i != ROOT) for i, n in enumerate(tree.nodes)])


def whiten(advantages: list[np.ndarray], num_tokens: list[np.ndarray]) -> list[np.ndarray]:
    """A = (raw - mu) / sqrt(var + 1e-8), mu and unbiased var over all response tokens of all trajectories of the batch.

    advantages, num_tokens: per tree the values and how many tokens have each; see `token_counts`. Fewer than two tokens
    are only centred, and what no token has becomes 0. Source: TreePO, section 2.3, as its authors' release completes
    it.
    """
    raw, weights = np.concatenate(advantages), np.concatenate(num_tokens)
    total = weights.sum()
    mean = (raw * weights).sum() / total
    variance = (weights * (raw - mean) ** 2).sum() / max(total - 1, 1)
    white = [(a - mean) / np.sqrt(variance + VARIANCE_EPS) for a in advantages]
    return [np.where(n > 0, w, 0.0) for w, n in zip(white, num_tokens, strict=True)]
