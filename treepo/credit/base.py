"""From rewards to advantages: the interface of estimators, what they return, and whitening."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from treepo.credit.leaf_weights import leaf_weights
from treepo.errors import SettingError
from treepo.tree import ROOT, Tree


@dataclass(frozen=True, eq=False)
class Advantages:
    """The advantages of one tree's trajectories.

    values: float64, one per leaf [L], in the order of `Tree.leaves`; with `per_node` one per node [N], for each of its
    tokens, or one per node and leaf [N, L], for its tokens in each trajectory through it. The root's are 0. With
    `per_token` as well, one per response token of each trajectory [P], trajectory after trajectory.
    """

    values: np.ndarray
    per_node: bool = False
    per_token: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))

    @classmethod
    def by(cls, estimator: "Estimator", values: np.ndarray) -> "Advantages":
        """What an estimator returned."""
        return cls(values, estimator.per_node, getattr(estimator, "per_token", False))

    @classmethod
    def of(cls, advantages: "Advantages | np.ndarray") -> "Advantages":
        """A plain array holds one value per leaf."""
        return advantages if isinstance(advantages, Advantages) else cls(advantages)

    def check_shape(self, tree: Tree) -> None:
        """Raise ValueError unless there are as many values as the tree has leaves, nodes or tokens."""
        num_nodes, num_leaves = len(tree.nodes), len(tree.leaves())
        shapes = [(num_nodes,), (num_nodes, num_leaves)] if self.per_node else [(num_leaves,)]
        if self.per_token:
            shapes = [(int(tree.response_lens().sum()),)]
        if self.values.shape not in shapes:
            raise ValueError(
                f"advantages of shape {self.values.shape}, expected {' or '.join(map(str, shapes))} for a tree of "
                f"{num_nodes} nodes and {num_leaves} leaves with per_node = {self.per_node}"
            )

    def node_means(self, tree: Tree) -> np.ndarray:
        """float64 [N]: of each node, the mean over the trajectories through it; 0 where there is none."""
        assert self.per_node, "one value per leaf has no values of nodes"
        if self.per_token:
            nodes = np.concatenate([token_nodes(tree, leaf) for leaf in tree.leaves()])
            sums, counts = (np.bincount(nodes, values, len(tree.nodes)) for values in (self.values, None))
            return sums / np.maximum(counts, 1)
        if self.values.ndim == 1:
            return self.values
        groups = tree.groups()
        return np.array([self.values[i, groups[i]].mean() if i in groups else 0.0 for i in range(len(tree.nodes))])

    def by_token(self, tree: Tree) -> list[np.ndarray]:
        """float64 [response length] per leaf: the advantage of each token on its path."""
        if self.per_token:
            return np.split(self.values, np.cumsum(tree.response_lens())[:-1])
        if not self.per_node:
            return [np.full(n, value) for n, value in zip(tree.response_lens(), self.values, strict=True)]
        rows = []
        for i, leaf in enumerate(tree.leaves()):
            nodes = token_nodes(tree, leaf)
            rows.append(self.values[nodes] if self.values.ndim == 1 else self.values[nodes, i])
        return rows

    def token_counts(self, tree: Tree) -> np.ndarray:
        """int64, in the shape of `values`: the response tokens of trajectories that have each of them.

        Those of a leaf; those of a node once for each leaf below it; those of a node in a trajectory through it; one
        for a token of a trajectory. The root has none.
        """
        if self.per_token:
            return np.ones(len(self.values), np.int64)
        if not self.per_node:
            return tree.response_lens()
        lengths = np.array([tree.num_sampled(i) for i in range(len(tree.nodes))])
        counts = np.zeros((len(tree.nodes), len(tree.leaves())), np.int64)
        for i, leaves in tree.groups().items():
            counts[i, leaves] = lengths[i]
        return counts if self.values.ndim == 2 else counts.sum(axis=1)


def token_nodes(tree: Tree, leaf: int) -> np.ndarray:
    """int64 [response length]: the node that each response token of a trajectory is of."""
    path = tree.path(leaf)
    return np.repeat(path, [tree.num_sampled(i) for i in path])


class Estimator(Protocol):
    """Maps a tree and the rewards of its leaves to advantages: a plain array in one of the shapes of `Advantages`.

    One that has `per_token = True` beside `per_node = True` returns a value per token of each trajectory.
    """

    per_node: ClassVar[bool]
    """Whether there is one value per node [N], or per node and leaf [N, L]; otherwise one per leaf [L]."""

    @property
    def whiten(self) -> bool:
        """Whether the advantages are then whitened over the response tokens of the whole batch."""
        ...

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Component:
    """One summand of an advantage, mostly a comparison: the advantage is the sum of `weight` x `value` over its
    components, 0 if it has none.

    name: what it compares with, in a few words. node: whose leaves are that group; size: how many of them count (for
    `SPO`, how many siblings). mean: the group's mean reward, or value. value: how far what is credited is from it; for
    `FadingDifference`, which compares values that have faded differently, the value V of `node` itself.
    """

    name: str
    node: int
    size: int
    mean: float
    value: float
    weight: float


@runtime_checkable
class SupportsComponents(Protocol):
    """An estimator that can say how its advantages come about; all built-in ones can."""

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        """The components of each advantage; with one advantage per node and leaf, those of `Advantages.node_means`."""
        ...


def sum_components(components: Sequence[Sequence[Component]]) -> np.ndarray:
    """float64: the advantage that each list of components adds up to."""
    return np.array([sum(c.weight * c.value for c in own) for own in components], np.float64)


def node_name(node: int) -> str:
    """The name of a node in the names of components."""
    return "the prompt" if node == ROOT else f"node {node}"


def without_observed(tree: Tree) -> Tree:
    """The tree as estimators see it: the same nodes and indices, but none that was observed leads to a leaf.

    What is below such a node hangs below the sampled node above it, so that it is no group, no value and no level of
    its own. A tree without any is returned as it is.
    """
    if not tree.has_observed:
        return tree
    return _hung_below(tree, {i for i, node in enumerate(tree.nodes) if not node.observed})


def turn_tree(tree: Tree) -> Tree:
    """The tree of whole turns: the same nodes and indices, but none inside a turn leads to a leaf.

    tree: as estimators see it. A turn ends where something was observed, and at a leaf; its last node hangs below that
    of the turn before it, so that paths that part within a turn part where it begins.
    """
    ends = {node.parent for node in tree.nodes if node.observed} | {ROOT, *tree.leaves()}
    return _hung_below(tree, ends)


def _hung_below(tree: Tree, kept: Collection[int]) -> Tree:
    """The tree in which each node hangs below the nearest of `kept` above it."""
    above = list(range(len(tree.nodes)))
    for i in tree.top_down():
        if i not in kept:
            above[i] = above[tree.nodes[i].parent]
    return replace(tree, nodes=[replace(n, parent=above[n.parent]) if i else n for i, n in enumerate(tree.nodes)])


@dataclass(frozen=True)
class LeafEstimator:
    """The base of estimators with one advantage per leaf that compare it with means over leaves.

    Leaf i counts m_i: 1, or with `leaves = "unbiased"` L w_i, w = `leaf_weights(tree)` of the kind `ignored`: what a
    fallback drew counts 0. Means over leaves are sum m R / sum m, and the advantage is multiplied by m_i, so that a
    loss in which all leaves have the weight 1 / L counts leaf i w_i times: E[sum_i w_i (R_i - b) score_i] is the
    policy gradient where b does not depend on the tokens that are scored. Assumes what `leaf_weights` does;
    docs/credit.md says what is left of a bias in each estimator. Raises SettingError if such advantages were to be
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
            raise SettingError(
                "leaves",
                "'unbiased' needs whiten = false: whitening subtracts a mean from all leaves, also from those that "
                "count nothing",
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


VARIANCE_EPS = 1e-8

AllReduce = Callable[[np.ndarray], np.ndarray]
"""float64 [n] of each process -> [n], added up over all of them."""


def whiten(
    advantages: Sequence[np.ndarray], num_tokens: Sequence[np.ndarray], all_reduce: AllReduce = np.asarray
) -> list[np.ndarray]:
    """A = (raw - mu) / sqrt(var + 1e-8), mu and unbiased var over all response tokens of all trajectories of the batch.

    advantages, num_tokens: per tree the values and how many tokens have each (`Advantages.token_counts`). all_reduce:
    adds up numbers over the processes among which the batch is divided. Fewer than two tokens are only centred, and
    what no token has becomes 0. Source: TreePO, section 2.3, as its authors' release completes it.
    """
    return whiten_with(advantages, num_tokens, *whitening_moments(advantages, num_tokens, all_reduce))


def whitening_moments(
    advantages: Sequence[np.ndarray], num_tokens: Sequence[np.ndarray], all_reduce: AllReduce = np.asarray
) -> tuple[float, float]:
    """(mu, sqrt(var + 1e-8)) of `whiten`."""
    none = np.zeros(0)
    values, weights = (np.concatenate([none, *(a.ravel() for a in arrays)]) for arrays in (advantages, num_tokens))
    count, total = all_reduce(np.array([weights.sum(), (weights * values).sum()]))
    mean = total / max(count, 1)
    # Squares are taken around the mean of all processes, so that nothing is lost where it is large.
    (squares,) = all_reduce(np.array([(weights * (values - mean) ** 2).sum()]))
    return float(mean), float(np.sqrt(squares / max(count - 1, 1) + VARIANCE_EPS))


def whiten_with(
    advantages: Sequence[np.ndarray], num_tokens: Sequence[np.ndarray], mean: float, std: float
) -> list[np.ndarray]:
    """(raw - mean) / std, 0 where no token has it."""
    return [np.where(n > 0, (a - mean) / std, 0.0) for a, n in zip(advantages, num_tokens, strict=True)]
