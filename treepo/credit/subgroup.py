"""Estimators that compare each leaf with the leaves under every ancestor it has."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from treepo.tree import ROOT, Tree

STD_EPS = 1e-6


@dataclass(frozen=True)
class TreePO:
    """A_i = mean over j of (R_i - mean R over G_j), G_j the leaves under the j-th proper ancestor of leaf i.

    Source: TreePO, arXiv 2508.17445, eq. 5 and its variants below. The root counts as an ancestor; nodes with a single
    leaf below them do not (unless it is the root); an unbranched chain of segments repeats its group once per node.
    A leaf that no group is left for has advantage 0. Assumes that where trajectories part they differ by what follows.
    """

    per_node: ClassVar[bool] = False

    weight: Literal["equal", "size"] = "equal"
    """What a group counts in the mean: all the same (eq. 5), or its number of leaves (eq. 6)."""

    reject_agreeing: bool = False
    """Leave out groups whose rewards all agree, but never the root's (eq. 7)."""

    with_root: bool = True
    """Whether the root's group counts (section 4.2 leaves it out)."""

    distinct: bool = False
    """Count a group once where an unbranched chain of segments repeats it."""

    divide_by_std: bool = False
    """Divide each difference by (std + 1e-6) of its group's rewards, unbiased: GRPO in every group."""

    whiten: bool = True
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        groups = {node: rewards[leaves] for node, leaves in tree.groups().items()}
        counted = [self._counted(groups, tree.path(leaf)[:-1]) for leaf in tree.leaves()]
        return np.array([self._advantage(*own) for own in zip(rewards, counted, strict=True)])

    def _counted(self, groups: dict[int, np.ndarray], ancestors: list[int]) -> list[np.ndarray]:
        """The rewards of each group that counts, of those of a leaf's ancestors from the root down."""
        sizes = [0, *(len(groups[node]) for node in ancestors)]
        counted = []
        for above, node in zip(sizes, ancestors, strict=False):
            is_root, group = node == ROOT, groups[node]
            is_repeated = self.distinct and len(group) == above
            is_rejected = self.reject_agreeing and group.min() == group.max()
            if self.with_root if is_root else len(group) >= 2 and not is_repeated and not is_rejected:
                counted.append(group)
        return counted

    def _advantage(self, reward: float, groups: list[np.ndarray]) -> float:
        if not groups:
            return 0.0
        scales = [group.std(ddof=1) + STD_EPS if self.divide_by_std and len(group) > 1 else 1.0 for group in groups]
        differences = [(reward - group.mean()) / scale for group, scale in zip(groups, scales, strict=True)]
        weights = [len(group) if self.weight == "size" else 1 for group in groups]
        return float(np.average(differences, weights=weights))
