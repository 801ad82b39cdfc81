"""The seam between rewards and learning."""

from typing import Protocol

import numpy as np

from treepo.tree import Tree


class Estimator(Protocol):
    """Maps a tree and the rewards of its leaves to one advantage per leaf, float64, in the order of `Tree.leaves`."""

    @property
    def whiten(self) -> bool:
        """Whether the advantages are then whitened over the response tokens of the whole batch."""
        ...

    def __call__(self, tree: Tree, rewards: np.ndarray) -> np.ndarray: ...
