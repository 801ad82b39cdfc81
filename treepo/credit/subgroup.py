"""Estimators that compare each leaf with the leaves under every ancestor it has."""

from dataclasses import dataclass

import numpy as np

from treepo.tree import Tree


@dataclass(frozen=True)
class TreePO:
    """A_i = mean over j of (R_i - mean R over G_j), G_j the leaves under the j-th proper ancestor of leaf i.

    Source: TreePO, arXiv 2508.17445, eq. 5. The root counts as an ancestor; nodes with a single leaf below them do
    not (unless it is the root); an unbranched chain of segments repeats its group once per node. Nothing is divided
    by a subgroup's own std.
    """

    whiten: bool = True
    """Whether the advantages are then whitened over the response tokens of the whole batch."""

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray:
        groups = tree.groups()
        means = {node: rewards[leaves].mean() for node, leaves in groups.items()}
        advantages = np.empty(len(rewards))
        for i, leaf in enumerate(tree.leaves()):
            root, *inner = tree.path(leaf)[:-1]
            ancestors = [root, *(node for node in inner if len(groups[node]) >= 2)]
            advantages[i] = rewards[i] - np.mean([means[node] for node in ancestors])
        return advantages
