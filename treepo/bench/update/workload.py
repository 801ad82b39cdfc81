"""What one update is on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.learn.figures import lengths_of
from treepo.learn.packing import num_distinct
from treepo.tree import Tree


@dataclass(frozen=True, eq=False)
class Workload:
    """Trees with their advantages."""

    trees: Sequence[Tree]
    advantages: Sequence[np.ndarray]

    @property
    def num_trajectories(self) -> int:
        """Leaves of all trees."""
        return sum(len(tree.leaves()) for tree in self.trees)

    @property
    def num_distinct(self) -> int:
        """Tokens with the prompts, each shared one once."""
        return sum(len(tree.prompt_ids) + num_distinct(tree) for tree in self.trees)

    @property
    def num_total(self) -> int:
        """Tokens of all trajectories, each with its prompt."""
        return sum(int((len(tree.prompt_ids) + lengths_of(tree)).sum()) for tree in self.trees)
