"""Estimators that compare each leaf with the leaves under every ancestor it has."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from treepo.credit.base import Component, LeafEstimator, mean_of, std_of
from treepo.tree import ROOT, Tree

STD_EPS = 1e-6


@dataclass(frozen=True)
class TreePO(LeafEstimator):
    """A_i = mean over j of (R_i - mean R over G_j), G_j the leaves under the j-th proper ancestor of leaf i.

    Source: TreePO, arXiv 2508.17445, eq. 5 and its variants below. The root counts as an ancestor; nodes with a single
    leaf below them do not; an unbranched chain of segments repeats its group once per node. A leaf that no group is
    left for has advantage 0. Assumes that where trajectories part they differ by what follows.

    With `leaves = "unbiased"` means, stds and sizes are over leaves as they count (`LeafEstimator`), relative to their
    group: a mean is unbiased for the policy's after the prefix that the group shares. Leaves that count nothing are in
    no group and have advantage 0.
    """

    weight: Literal["equal", "size"] = "equal"
    """What a group counts in the mean: all the same (eq. 5), or its number of leaves (eq. 6)."""

    reject_agreeing: bool = False
    """Leave out groups whose rewards all agree (eq. 7); if the root's do, all advantages are 0 anyway."""

    with_root: bool = True
    """Whether the root's group counts (section 4.2 leaves it out)."""

    distinct: bool = False
    """Count a group once where an unbranched chain of segments repeats it."""

    divide_by_std: bool = False
    """Divide each difference by (std + 1e-6) of its group's rewards, unbiased: GRPO in every group."""

    whiten: bool = field(default=True, kw_only=True)
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        counts = self.counts(tree)
        groups = self._groups_of_leaves(tree, rewards, counts)
        triples = zip(rewards, counts, groups, strict=True)
        return np.array([count * self._advantage(reward, own) for reward, count, own in triples])

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        counts = self.counts(tree)
        groups = self._groups_of_leaves(tree, rewards, counts)
        triples = zip(rewards.tolist(), counts.tolist(), groups, strict=True)
        return [self._components(reward, count, own) for reward, count, own in triples]

    def _components(self, reward: float, count: float, groups: "list[_Group]") -> list[Component]:
        weights = self._weights(groups)
        return [
            Component(
                f"leaves below node {group.node}" if group.node != ROOT else "all leaves",
                group.node,
                len(group.rewards),
                group.mean,
                reward - group.mean,
                count * weight / (sum(weights) * self._scale(group)),
            )
            for group, weight in zip(groups, weights, strict=True)
        ]

    def _groups_of_leaves(self, tree: Tree, rewards: np.ndarray, counts: np.ndarray) -> "list[list[_Group]]":
        """For each leaf the groups that it is compared with; none for one that counts nothing."""
        groups = {
            node: _Group(node, rewards, counts, [i for i in own if counts[i] > 0])
            for node, own in tree.groups().items()
        }
        leaves = zip(tree.leaves(), counts, strict=True)
        return [self._counted(groups, tree.path(leaf)[:-1]) if count > 0 else [] for leaf, count in leaves]

    def _counted(self, groups: "dict[int, _Group]", ancestors: list[int]) -> "list[_Group]":
        """Each group that counts, of those of a leaf's ancestors from the root down."""
        sizes = [0, *(len(groups[node].rewards) for node in ancestors)]
        counted = []
        for above, node in zip(sizes, ancestors, strict=False):
            group = groups[node].rewards
            is_repeated = self.distinct and len(group) == above
            is_rejected = self.reject_agreeing and group.min() == group.max()
            if (self.with_root or node != ROOT) and len(group) >= 2 and not is_repeated and not is_rejected:
                counted.append(groups[node])
        return counted

    def _advantage(self, reward: float, groups: "list[_Group]") -> float:
        if not groups:
            return 0.0
        differences = [(reward - group.mean) / self._scale(group) for group in groups]
        return float(np.average(differences, weights=self._weights(groups)))

    def _scale(self, group: "_Group") -> float:
        """What a difference from the mean of a group is divided by."""
        return group.std + STD_EPS if self.divide_by_std else 1.0

    def _weights(self, groups: "list[_Group]") -> list[float]:
        """What each group counts in the mean over them."""
        return [float(group.counts.sum()) if self.weight == "size" else 1.0 for group in groups]


class _Group:
    """The leaves at or below a node that count: their rewards and what they count."""

    def __init__(self, node: int, rewards: np.ndarray, counts: np.ndarray, leaves: list[int]) -> None:
        self.node = node
        self.rewards, self.counts = rewards[leaves], counts[leaves]

    @cached_property
    def mean(self) -> float:
        return mean_of(self.rewards, self.counts)

    @cached_property
    def std(self) -> float:
        return std_of(self.rewards, self.counts)
