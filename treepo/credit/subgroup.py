"""Estimators that compare each leaf with the leaves under every ancestor it has."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from treepo.credit.base import Component, LeafEstimator, mean_of, std_of, turn_tree
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

    level: Literal["segment", "turn"] = field(default="segment", kw_only=True)
    """Which ancestors have groups: all, or those at which a turn of an environment ends, and the root."""

    whiten: bool = field(default=True, kw_only=True)
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        return np.array([count * self._advantage(reward, own) for reward, count, own in self._leaves(tree, rewards)])

    def components(self, tree: Tree, rewards: np.ndarray) -> list[list[Component]]:
        return [self._components(reward, count, own) for reward, count, own in self._leaves(tree, rewards)]

    def _leaves(self, tree: Tree, rewards: np.ndarray) -> "Iterator[tuple[float, float, list[_Group]]]":
        """Each leaf's reward, its weight, and the groups it is compared with; no group if the weight is 0."""
        counts = self.counts(tree)
        if self.level == "turn":
            tree = turn_tree(tree)
        groups = {
            node: _Group(node, rewards, counts, [i for i in own if counts[i] > 0])
            for node, own in tree.groups().items()
        }
        for leaf, reward, count in zip(tree.leaves(), rewards.tolist(), counts.tolist(), strict=True):
            yield reward, count, self._counted([groups[node] for node in tree.path(leaf)[:-1]]) if count > 0 else []

    def _counted(self, groups: "list[_Group]") -> "list[_Group]":
        """The groups that count, of those of a leaf's ancestors from the root down."""
        sizes = [len(group.rewards) for group in groups]
        return [
            group
            for group, size, size_above in zip(groups, sizes, [0, *sizes], strict=False)
            if (self.with_root or group.node != ROOT)
            and size >= 2
            and not (self.distinct and size == size_above)
            and not (self.reject_agreeing and group.rewards.min() == group.rewards.max())
        ]

    def _advantage(self, reward: float, groups: "list[_Group]") -> float:
        if not groups:
            return 0.0
        differences = [(reward - group.mean) / self._scale(group) for group in groups]
        return float(np.average(differences, weights=self._weights(groups)))

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
