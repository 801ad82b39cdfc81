"""Strategies of your own: how many children each path gets, and where a tree grows again.

python examples/own_strategy.py [MODEL]     # the built-in task, in seconds; its own model unless another is named
treepo train --branching.use own_strategy:LatecomersFirst --branching.bonus 3      # from the folder of this file
"""

import sys
from dataclasses import dataclass

import treepo
from treepo.grow.branching import transferred_budget


@dataclass(frozen=True)
class LatecomersFirst:
    """The transferred budget goes to the last active paths first, up to `bonus` extra children each."""

    bonus: int = 1

    def __call__(self, level: treepo.grow.Level, rng) -> list[int]:
        counts = [1] * level.num_active
        rest = transferred_budget(level, level.shape.num_children) - level.num_active
        for i in reversed(range(level.num_active)):
            counts[i] += min(rest, self.bonus)
            rest -= counts[i] - 1
        return counts


def halfway(finished, shape, rng) -> list[treepo.grow.BacktrackPoint]:
    """Grows again from the middle of the longest answer. What is random must come from rng, for equal seeds."""
    longest = max(finished, key=lambda path: path.response_len)
    return [treepo.grow.BacktrackPoint(longest.leaf, longest.response_len // 2)]


if __name__ == "__main__":
    config = treepo.TreePOConfig(branching=LatecomersFirst(bonus=3), fallback=halfway)
    with treepo.TreePOTrainer(model=sys.argv[1] if len(sys.argv) > 1 else "", config=config) as trainer:
        trainer.grow("62a-7b+7c+2d:").show()
