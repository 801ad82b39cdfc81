"""The seam between rewards and learning."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np

from treepo.credit.leaf_weights import leaf_weights
from treepo.tree import Tree


class Estimator(Protocol):
    """Maps a tree and the rewards of its leaves to float64 advantages: one per leaf [L], in the order of `Tree.leaves`,
    or one per node [N], or one per node and trajectory through it [N, L]; the root's are 0."""

    per_node: ClassVar[bool]
    """Whether there is one per node (and trajectory): of each of its tokens. Otherwise there is one per leaf: of each
    token of its trajectory."""

    @property
    def whiten(self) -> bool:
        """Whether the advantages are then whitened over the response tokens of the whole batch."""
        ...

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class LeafEstimator:
    """What estimators with one advantage per leaf, that compare it with means over leaves, have in common.

    Leaf i counts m_i: 1, or with `leaves = "unbiased"` L w_i, w = `leaf_weights(tree)` of the kind `ignored`: what a
    fallback drew counts 0. Means over leaves are sum m R / sum m, and the advantage is multiplied by m_i, so that a
    loss in which all leaves have the weight 1 / L counts leaf i w_i times: E[sum_i w_i (R_i - b) score_i] is the
    policy gradient where b does not depend on the tokens that are scored. Assumes what `leaf_weights` does;
    docs/credit.md says what is left of a bias in each estimator. Raises ValueError if such advantages were to be
    whitened: that subtracts one mean from all leaves, and so pushes those with m = 0.
    """

    per_node: ClassVar[bool] = False

    leaves: Literal["equal", "unbiased"] = field(default="equal", kw_only=True)
    """What a leaf counts in means and in the loss: all the same, or so that sums stand for the policy's own
    distribution, what a fallback drew not at all (with `whiten = false` only)."""

    whiten: bool = field(default=False, kw_only=True)
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __post_init__(self) -> None:
        if self.leaves == "unbiased" and self.whiten:
            raise ValueError(
                "leaves = 'unbiased' needs whiten = false: whitening subtracts a mean from all leaves, also from those "
                "that count nothing"
            )

    def counts(self, tree: Tree) -> np.ndarray:
        """float64 [L]: m, which sums to L."""
        num_leaves = len(tree.leaves())
        return np.ones(num_leaves) if self.leaves == "equal" else num_leaves * leaf_weights(tree)


def mean_of(rewards: np.ndarray, counts: np.ndarray) -> float:
    """sum m R / sum m."""
    return float(np.average(rewards, weights=counts))


def std_of(rewards: np.ndarray, counts: np.ndarray) -> float:
    """sqrt(sum m (R - mean)^2 / (M - sum m^2 / M)) with M = sum m, the unbiased std where all count the same; 1 if
    fewer than two count."""
    if np.count_nonzero(counts) < 2:
        return 1.0
    total = counts.sum()
    differences = rewards - mean_of(rewards, counts)
    return float(np.sqrt((counts * (differences * differences)).sum() / (total - (counts * counts).sum() / total)))
