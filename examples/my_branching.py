"""A custom branching: one class in one file.

    treepo train --branching.use my_branching:LatecomersFirst --branching.bonus 3      # from the folder of this file

The level's `tree` and `nodes` hold everything that was decoded so far. Rewards are not known while a tree grows.
"""

from dataclasses import dataclass

import numpy as np

from treepo.grow.branching import Level, transferred_budget


@dataclass(frozen=True)
class LatecomersFirst:
    """The transferred budget goes to the last active paths first, up to `bonus` extra children each."""

    bonus: int = 1
    """Most extra children of a path."""

    def __call__(self, level: Level, rng: np.random.Generator) -> list[int]:
        counts = [1] * level.num_active
        rest = transferred_budget(level, level.shape.num_children) - level.num_active
        for i in reversed(range(level.num_active)):
            counts[i] += min(rest, self.bonus)
            rest -= counts[i] - 1
        return counts
