"""The interface between rewards and learning: estimators, their components, whitening."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from treepo.credit.leaf_weights import leaf_weights
from treepo.tree import ROOT, Tree


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


@dataclass(frozen=True)
class Term:
    """One summand, mostly a comparison. An advantage is the sum of `weight` x `value` over its terms, 0 if it has none.

    name: what it compares with, in a few words. node: whose leaves are that group; size: how many of them count (of
    `SPO`, how many siblings). mean: the group's mean reward, or value. value: how far what is compute_advantages is from it; of
    `FadingDifference`, which compares values that have faded differently, the value V of `node` itself.
    """

    name: str
    node: int
    size: int
    mean: float
    value: float
    weight: float


def node_name(node: int) -> str:
    """What names of terms call a node."""
    return "the prompt" if node == ROOT else f"node {node}"


@runtime_checkable
class Explained(Protocol):
    """An estimator that can say how its advantages come about; all of ours can."""

    def terms(self, tree: Tree, rewards: np.ndarray) -> list[list[Term]]:
        """Per advantage its terms; where it has one per node and trajectory, of their mean over the trajectories
        through each node (`Tree.per_node`)."""
        ...


def sums_of(terms: Sequence[Sequence[Term]]) -> np.ndarray:
    """float64: what terms add up to."""
    return np.array([sum(term.weight * term.value for term in own) for own in terms], np.float64)


def group_terms(rewards: np.ndarray, counts: np.ndarray, scale: float = 1.0) -> list[list[Term]]:
    """m_i (R_i - mean R) x scale, a single reward as it is, each as one term. counts [L]: m."""
    mean, size = mean_of(rewards, counts), int(np.count_nonzero(counts))
    baseline, name = (mean, "all leaves") if len(rewards) > 1 else (0.0, "no other leaf")
    return [
        [Term(name, ROOT, size, mean, reward - baseline, count * scale)]
        for reward, count in zip(rewards.tolist(), counts.tolist(), strict=True)
    ]


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
