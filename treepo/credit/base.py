"""The seam between rewards and learning."""

from typing import ClassVar, Protocol

import numpy as np

from treepo.tree import Tree


class Estimator(Protocol):
    """Maps a tree and the rewards of its leaves to float64 advantages: one per leaf [L], in the order of `Tree.leaves`,
    or one per node [N], the root's being 0."""

    per_node: ClassVar[bool]
    """Whether there is one per node: of each of its tokens, for all trajectories through it. Otherwise there is one per
    leaf: of each token of its trajectory."""

    @property
    def whiten(self) -> bool:
        """Whether the advantages are then whitened over the response tokens of the whole batch."""
        ...

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray: ...
