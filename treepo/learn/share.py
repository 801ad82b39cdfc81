"""What a process did in a training step, and what all of them did together."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from treepo.engine import EngineCounters
from treepo.grow import TreeShape
from treepo.learn.figures import packing_figures, problem_figures, reward_figures, tree_figures
from treepo.learn.groups import advantage_figures, group_figures
from treepo.learn.rewards import Verified, check_figures, part_figures
from treepo.processes import Processes, merged
from treepo.tree import Tree


@dataclass(frozen=True, eq=False)
class Share:
    """The trees that a process grew in a step, in the order of their problems; of each what its leaves got, its
    advantages, None if it was not trained on, and how many tokens an epoch of updates forwards of it. entropies: see
    `tree_entropies`; none if they were not asked for."""

    trees: list[Tree]
    verified: list[Verified]
    advantages: list[np.ndarray | None]
    num_forwarded: list[int]
    entropies: list[list[np.ndarray]]

    @property
    def rewards(self) -> list[np.ndarray]:
        """One per leaf of each tree."""
        return [v.rewards for v in self.verified]

    def figures(self, shape: TreeShape, num_rounds: int) -> dict[str, float]:
        """All figures of these trees."""
        trees, rewards, correct = self.trees, self.rewards, [v.correct for v in self.verified]
        return (
            reward_figures(trees, rewards)
            | {"correct/mean": float(np.concatenate(correct).mean())}
            | part_figures(self.verified)
            | check_figures(self.verified)
            | problem_figures(rewards, correct, num_rounds, sum(a is not None for a in self.advantages))
            | tree_figures(trees, shape)
            | group_figures(trees, rewards, shape)
            | advantage_figures(trees, self.advantages, shape)
            | packing_figures(trees, self.num_forwarded)
        )


def joined(shares: Sequence[Share]) -> Share:
    """The shares of all processes as one, in the order in which problems were dealt out."""
    return Share(
        merged([share.trees for share in shares]),
        merged([share.verified for share in shares]),
        merged([share.advantages for share in shares]),
        merged([share.num_forwarded for share in shares]),
        merged([share.entropies for share in shares]),
    )


def counters_of_all(own: EngineCounters, processes: Processes) -> EngineCounters:
    """What the engines of all processes did."""
    return EngineCounters(*map(int, processes.sums(np.array(astuple(own), np.float64))))


def largest_of_all(own: dict[str, float], processes: Processes) -> dict[str, float]:
    """Of each figure the largest of any process."""
    found = processes.gather(own)
    return {name: max(figures[name] for figures in found) for name in own}
